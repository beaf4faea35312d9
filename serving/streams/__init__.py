"""Formats of the bytes of an answer: event streams and content codings."""
