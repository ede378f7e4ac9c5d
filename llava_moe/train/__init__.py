"""Our own training loop over an engine protocol, with exact state."""
