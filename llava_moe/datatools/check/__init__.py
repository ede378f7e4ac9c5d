"""Looks at a whole mixture before it is trained on: what is wrong, with which records, and what to do about it."""
