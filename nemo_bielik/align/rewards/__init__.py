"""Verifiable rewards: pure functions from an answer's text and its task to a number in [0, 1]."""
