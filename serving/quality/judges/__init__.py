"""Judges of answers: reference rules, a language model, people; and how far they agree."""
