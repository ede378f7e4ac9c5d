"""What is written to a terminal: the console, streams, the progress bar."""
