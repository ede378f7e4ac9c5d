"""Adapters as files: our own folder, PEFT's, and what both say of sizes, names and the base they were trained on."""
