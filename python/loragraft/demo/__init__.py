"""The demonstration: a real model, a real adapter, merged and extracted back."""
