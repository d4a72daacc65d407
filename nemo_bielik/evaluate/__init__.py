"""Evaluation with plain transformers: perplexity, minimal pairs, facts; a student's recovery."""
