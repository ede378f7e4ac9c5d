"""A trained adapter in forms that Hugging Face and PEFT load alone, each proven by loading it back."""
