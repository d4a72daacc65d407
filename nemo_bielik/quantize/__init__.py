"""Fewer bits a weight: GGUF for llama.cpp, and the formats of servers."""
