"""A page for each published data set: what it is, and how it becomes records."""
