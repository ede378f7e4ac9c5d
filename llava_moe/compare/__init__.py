"""The page that sets ways of training beside each other: losses, scores, curves, routing, cost, and which is best."""
