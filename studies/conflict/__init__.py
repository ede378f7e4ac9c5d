"""Do domains conflict? LoRA of one domain against LoRA of all, at equal samples of each domain."""
