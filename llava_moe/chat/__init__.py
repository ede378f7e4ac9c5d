"""Talking to a model: the conversation, one answer at a time, and the terminal around it."""
