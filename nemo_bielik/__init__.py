"""Compress a large language model: score it, prune it, distil it from the original, judge it.

Importing this package loads neither torch nor Megatron; the stages import what they need.
"""

__version__ = "0.1.0"
