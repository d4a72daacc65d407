"""From a base model to an assistant: fine-tuning, preferences, verifiable rewards."""
