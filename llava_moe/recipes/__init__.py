"""One module per published data set: what it is, and how it becomes records."""
