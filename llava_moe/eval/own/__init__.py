"""Benchmarks of the user's own: a file of questions with their answers, named by its path."""
