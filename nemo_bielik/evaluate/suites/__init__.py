"""Benchmark suites, run by lm-evaluation-harness on a model here or behind an endpoint."""
