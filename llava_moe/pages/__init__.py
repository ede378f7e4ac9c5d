"""What every HTML page shares: its head, its style, drawings inside it, the colors of domains."""
