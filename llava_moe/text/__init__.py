"""Text to values, and text made safe to show: JSON and YAML, control characters, Markdown, secrets, shell words."""
