"""Files opened safely, and our own files read back."""
