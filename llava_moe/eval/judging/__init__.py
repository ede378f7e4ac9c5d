"""A language model as a judge of open answers."""
