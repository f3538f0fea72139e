"""What llama.cpp calls, stores and orders differently: names, dtypes and rows of GGUF files."""
