"""Turns image files, which may be broken or hostile, into pixels."""
