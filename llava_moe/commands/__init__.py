"""One file per command. It runs after its words were checked."""
