"""GPUs as they are sold: what a plan reckons with, and what a run's utilisation is a share of.

Published figures, looked up in NVIDIA's data sheets or tables that quote them; none was measured
here. FLOP/s are dense (data sheets print twice as many, with 2:4 sparsity); fp32 is that of plain
units, because Megatron does not turn TF32 on; links are one GPU's, in one direction.
"""

import re
from dataclasses import dataclass
from typing import Literal

from nemo_bielik.errors import ConfigError, nearest

#: One 400 Gb/s port a GPU between nodes, as DGX systems have it.
NODE_LINK_BYTES = 50e9


@dataclass(frozen=True)
class Device:
    """One GPU: memory and its bandwidth (bytes, bytes/s), FLOP/s, link within a node, watts.

    `memory_bytes` is the decimal figure that it is sold by; drivers show a little more.
    """

    name: str
    memory_bytes: float
    bandwidth: float
    bf16_flops: float
    fp32_flops: float
    link_bandwidth: float
    watts: float


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("A100", 80e9, 2.039e12, 312e12, 19.5e12, 300e9, 400),
        Device("H100", 80e9, 3.35e12, 989.4e12, 66.9e12, 450e9, 700),
        Device("H100-PCIE", 80e9, 2e12, 756e12, 51e12, 64e9, 350),
        Device("H100-NVL", 94e9, 3.9e12, 835.5e12, 60e12, 300e9, 400),
        Device("GH200", 96e9, 4e12, 989.4e12, 66.9e12, 450e9, 700),
        Device("H200", 141e9, 4.8e12, 989.4e12, 66.9e12, 450e9, 700),
        Device("H200-NVL", 141e9, 4.8e12, 835.5e12, 60e12, 450e9, 600),
        Device("B200", 180e9, 8e12, 2250e12, 75e12, 900e9, 1000),
        Device("L40S", 48e9, 0.864e12, 362.05e12, 91.6e12, 32e9, 350),
    )
}


def device(name: str) -> Device:
    """Return the GPU called `name`; raise `ConfigError` with the nearest known one."""
    if name.upper() not in DEVICES:
        raise ConfigError(
            f"no GPU {name!r} in the table{nearest(name.upper(), DEVICES)}; known are "
            f"{', '.join(DEVICES)}"
        )
    return DEVICES[name.upper()]


def peak_flops(driver_name: str, precision: Literal["fp32", "bf16"]) -> float | None:
    """Return the FLOP/s that a device can reach in dense products; None if it is not known.

    Args:
        driver_name: as ``torch.cuda.get_device_name`` has it, e.g. ``NVIDIA H100 80GB HBM3``. A
            slice of a GPU (MIG) is not known.
    """
    words = driver_name.upper().replace("-", " ").split()
    found = [one for one in DEVICES.values() if set(one.name.split("-")) <= set(words)]
    if "MIG" in words or not found:
        return None
    closest = max(found, key=lambda one: len(one.name))  # a variant before its family
    return closest.bf16_flops if precision == "bf16" else closest.fp32_flops


#: More are a slip of the keys: every split of them would be looked at.
_MOST_GPUS = 100_000


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal GPUs."""

    nodes: int
    gpus_per_node: int
    device: Device

    @classmethod
    def parse(cls, text: str) -> "Cluster":
        """Read ``2x8xH200`` (nodes, GPUs a node, GPU) or ``8xH200`` (one node)."""
        found = re.fullmatch(r"(?:(\d+)x)?(\d+)x([A-Za-z][\w-]*)", text)
        nodes, gpus = (int(found[1] or 1), int(found[2])) if found else (0, 0)
        if found is None or nodes < 1 or gpus < 1:
            raise ConfigError(
                f"cluster is {text!r}; write nodes x GPUs x name, such as 2x8xH200 or 8xH200"
            )
        if nodes * gpus > _MOST_GPUS:
            raise ConfigError(f"cluster is {text!r}; that is more than {_MOST_GPUS:,} GPUs")
        return cls(nodes, gpus, device(found[3]))

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.gpus_per_node
