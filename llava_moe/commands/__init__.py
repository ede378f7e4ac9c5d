"""The wiring of each command: the only files that see a Hydra configuration."""
