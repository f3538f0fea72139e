"""LoRA adapters made without training, out of weights alone."""
