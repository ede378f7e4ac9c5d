"""Readers of published record formats. Each turns its records into the one row that they are kept in."""
