"""Records and searches that tests of several files share.

``python tests/search/conftest.py SEARCH.JSON PAGE`` writes the page of a finished search anew.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "megatron"), str(Path(__file__).parent)]

if __name__ != "__main__":
    from engine_room import call, held_out, lanes, tokens  # noqa: F401

if __name__ == "__main__":
    from nemo_bielik.search.page import render

    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(render(found), encoding="utf-8")
