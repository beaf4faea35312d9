"""Rows of the ledger about the quality of answers."""
