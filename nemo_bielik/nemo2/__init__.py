"""Bielik in NeMo 2 (`nemo.collections.llm`), for those who live there; docs/nemo2.md.

NeMo 2's language models are deprecated upstream. Training here goes through `nemo_bielik.megatron`;
this package only registers model, conversions and recipes with NeMo. Importing it imports nothing.
"""
