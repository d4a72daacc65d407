"""Score → select → slice: which units matter, which are kept, and the smaller checkpoint."""
