"""``python -m nemo_bielik`` is the `bielik` command."""

import sys

from nemo_bielik.cli import main

if __name__ == "__main__":
    sys.exit(main())
