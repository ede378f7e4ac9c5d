"""The report of a run: one self-contained page that asks nothing of the network."""
