"""Pruning methods side by side: one model, one size, equal recovery."""
