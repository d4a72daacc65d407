"""What NeMo-Run loads (entry point group ``nemo_run.cli``): ``nemo llm`` then knows Bielik.

Where NeMo 2 is not installed there is nothing to register with, and nothing is said.
"""

import importlib.util

if importlib.util.find_spec("nemo") is not None:
    from nemo_bielik.nemo2.factories import register

    register()
