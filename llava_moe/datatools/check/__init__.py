"""Looks at a whole mixture before training: what is wrong, with which records, and what to do about it."""
