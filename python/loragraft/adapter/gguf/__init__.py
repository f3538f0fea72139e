"""Adapters as llama.cpp loads them: GGUF files of low-rank pairs."""
