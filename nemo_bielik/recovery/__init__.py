"""How much of its teacher a student keeps: recovery with intervals, its page and a model card."""
