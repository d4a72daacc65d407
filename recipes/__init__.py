"""Recipes: zero-argument functions that return configurations; a variant states only its deltas.

Installed as ``nemo_bielik.recipes``. Nothing here imports ``nemo_bielik.launch``.
"""
