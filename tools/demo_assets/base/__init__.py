"""The recipe of the embedded demo's base: a small CLIP vision tower, a small Llama and its tokenizer."""
