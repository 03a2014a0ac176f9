"""What both functions of the Enable token broker share: models, grants, expiry, store."""
