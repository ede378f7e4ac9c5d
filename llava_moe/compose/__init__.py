"""Combines LoRAs that were trained apart: checks their bases, merges them, picks the best."""
