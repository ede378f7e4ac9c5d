"""Generates answers, by a local model in batches or by a server."""
