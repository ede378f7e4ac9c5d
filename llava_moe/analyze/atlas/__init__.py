"""The routing atlas: who served which tokens of which domain, and what that says about the domain."""
