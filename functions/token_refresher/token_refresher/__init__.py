"""Renews Enable access tokens before they expire and stores them; holds the client secret."""
