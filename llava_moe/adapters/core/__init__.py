"""Code that all methods share: the adapted model, the wide linear, routers, which tokens belong together."""
