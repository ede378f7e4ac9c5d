"""What comes of answers: scores, intervals, comparisons, leaks, and their tables."""
