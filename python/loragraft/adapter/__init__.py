"""LoRA adapters on disk: PEFT's files, read, described and placed on a model."""
