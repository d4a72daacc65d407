"""``python -m nemo_bielik.bench.guarded PARENT PROGRAM …``: a program that ends with its parent.

However the parent ends, a server that it started must not stay. The promise to the kernel outlives
``exec``, so the program itself need not know of it.
"""

import os
import sys

from nemo_bielik.launch.local import die_with

if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.environ.pop("PYTHONPATH", None)  # the program has packages of its own
    os.execvp(sys.argv[2], sys.argv[2:])
