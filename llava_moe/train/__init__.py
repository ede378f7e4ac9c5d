"""The training loop, with exact state. It sees the model as functions that it is given, and as an engine."""
