"""Who answers: a model, its prompts in batches with a shared prefix, or a server."""
