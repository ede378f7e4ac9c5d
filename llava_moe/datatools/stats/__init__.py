"""Counts exactly what a mixture will train on, and shows its first rows token by token."""
