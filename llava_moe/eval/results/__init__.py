"""Scores, intervals, comparisons and tables that are computed from answers."""
