"""What runs in a bare interpreter, one process for each measurement; never imported from here."""
