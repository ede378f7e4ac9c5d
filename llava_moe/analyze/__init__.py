"""Instruments that look into a trained run: one file each, and what they share."""
