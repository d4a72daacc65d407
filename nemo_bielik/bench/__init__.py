"""How fast a served model answers: latencies and throughput at an OpenAI-compatible endpoint."""
