"""Evaluation: benchmarks, batched generation, scoring, tables."""
