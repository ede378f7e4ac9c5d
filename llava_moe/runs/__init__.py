"""A run's folder from its configuration to its end: what train, compose, plan and analyze share."""
