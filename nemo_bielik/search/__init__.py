"""Which smaller shape to distil: candidates, short trials of all, longer ones of the best, one."""
