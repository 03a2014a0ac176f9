"""Renews Enable access tokens before they expire and stores them; reads the client secret."""
