"""Launchers: where a stage runs (this machine, a cluster). Nothing here imports torch.

Installed as ``nemo_bielik.launch``.
"""
