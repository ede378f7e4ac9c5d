"""What every method stands on: the model that it adapts, the wide linear, routers, segments, the attached adapter."""
