"""Vends live tokens to IAM-authorised callers; cannot reach the client secret."""
