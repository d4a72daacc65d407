"""Task files in lm-evaluation-harness's format, for what it does not bring itself."""
