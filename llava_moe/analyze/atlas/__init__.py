"""The routing atlas: which expert handled which tokens of which domain."""
