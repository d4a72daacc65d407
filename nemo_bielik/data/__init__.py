"""Text to tokens: reading, splitting, tokenizing, and the built-in corpus."""
