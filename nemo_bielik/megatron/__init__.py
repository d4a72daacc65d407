"""The one training engine: Megatron-Bridge on Megatron-Core, on GPUs and on CPUs.

Importing this package installs the upstream fixes; Megatron itself is imported by its modules.
"""

import os

from nemo_bielik.megatron import upstream_fixes
from nemo_bielik.megatron.cpu import on_cpu

if on_cpu():
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # it does not know the rewritten devices
    # megatron-core asks nvcc, where one is installed, for the architecture of a GPU
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

upstream_fixes.install()
