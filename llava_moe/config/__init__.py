"""Words to a resolved, judged configuration: the one meeting with Hydra."""
