"""The page that compares ways of training: losses, scores, curves, routing, cost, and which is best."""
