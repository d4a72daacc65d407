"""One self-contained HTML page from the artifacts of a run; needs neither torch nor Megatron."""
