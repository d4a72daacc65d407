"""A small Polish corpus made on the spot, in which grammar and knowledge are measured apart.

The text is generated: a grammar with held-out word pairs, and a closed world of facts told in
many wordings. It is the same, byte for byte, wherever it is made.
"""

from nemo_bielik.data.tiny_polish.world import World, WorldConfig, write_world

__all__ = ["World", "WorldConfig", "write_world"]
