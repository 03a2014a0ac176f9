"""What users would pick instead, written as their own documentation shows it."""
