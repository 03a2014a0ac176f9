"""The interpreter alone: what every start has executed before its first line of its own."""
