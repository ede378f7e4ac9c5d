"""Figures of the papers, drawn from runs of our own: one module and one yaml for each."""
