"""Writes a trained adapter in forms that Hugging Face and PEFT load alone; each is loaded back and compared."""
