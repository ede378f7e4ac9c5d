"""Turns records into batches of text and pixels. It knows no model and no adapter."""
