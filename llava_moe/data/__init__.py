"""Records to batches: text and pixels, knowing no model and no adapter."""
