"""`broker`: the operator's command line, against a real account or `make up` alike."""
