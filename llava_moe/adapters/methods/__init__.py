"""LoRA, LLaVA-MoLE, Conditional MixLoRA, MoLE, and no adapter: one module per method, its gates in files beside it."""
