"""Runs many trainings as processes of their own, skips those that are finished, and measures differences."""
