"""GPUs as their makers state them: what a plan reckons with.

FLOP/s are dense (without sparsity); links are one GPU's, in one direction. Sources: NVIDIA's data
sheets of the SXM modules (A100 2021, H100 2023, H200 2024, HGX B200 2025) and of the L40S (2023).
"""

import re
from dataclasses import dataclass

from nemo_bielik.errors import ConfigError, nearest

#: One 400 Gb/s port a GPU between nodes, as DGX systems have it.
NODE_LINK_BYTES = 50e9


@dataclass(frozen=True)
class Device:
    """One GPU: memory and its bandwidth (bytes, bytes/s), bf16 FLOP/s, link within a node, watts.

    `memory_bytes` is the decimal figure that it is sold by; drivers show a little more.
    """

    name: str
    memory_bytes: float
    bandwidth: float
    bf16_flops: float
    link_bandwidth: float
    watts: float


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("A100", 80e9, 2.039e12, 312e12, 300e9, 400),
        Device("H100", 80e9, 3.35e12, 989e12, 450e9, 700),
        Device("H200", 141e9, 4.8e12, 989e12, 450e9, 700),
        Device("B200", 180e9, 8e12, 2250e12, 900e9, 1000),
        Device("L40S", 48e9, 0.864e12, 362e12, 32e9, 350),
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


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal GPUs."""

    nodes: int
    gpus_per_node: int
    device: Device

    @classmethod
    def parse(cls, text: str) -> "Cluster":
        """Read ``2x8xH200`` (nodes, GPUs a node, GPU) or ``8xH200`` (one node)."""
        found = re.fullmatch(r"(?:(\d+)x)?(\d+)x([A-Za-z]\w*)", text)
        nodes, gpus = (int(found[1] or 1), int(found[2])) if found else (0, 0)
        if found is None or nodes < 1 or gpus < 1:
            raise ConfigError(
                f"cluster is {text!r}; write nodes x GPUs x name, such as 2x8xH200 or 8xH200"
            )
        return cls(nodes, gpus, device(found[3]))

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.gpus_per_node
