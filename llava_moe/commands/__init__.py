"""One thin file a command: what it does with its judged words."""
