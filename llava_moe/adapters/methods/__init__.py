"""The methods: LoRA, LLaVA-MoLE, Conditional MixLoRA, MoLE, and no adapter; a module a method, its gates beside it."""
