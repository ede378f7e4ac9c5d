"""Reads and writes adapter folders, ours and PEFT's, and checks their sizes, names and base."""
