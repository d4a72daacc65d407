"""GPUs and clusters as users name them."""

import pytest

from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.devices import DEVICES, Cluster, device, peak_flops


@pytest.mark.parametrize(
    ("text", "nodes", "gpus_per_node", "name"),
    [("2x8xH200", 2, 8, "H200"), ("8xh100", 1, 8, "H100"), ("1x4xA100", 1, 4, "A100")],
)
def test_a_cluster_is_nodes_gpus_and_their_name(
    text: str, nodes: int, gpus_per_node: int, name: str
) -> None:
    cluster = Cluster.parse(text)
    assert (cluster.nodes, cluster.gpus_per_node, cluster.device.name) == (
        nodes,
        gpus_per_node,
        name,
    )
    assert cluster.gpus == nodes * gpus_per_node


@pytest.mark.parametrize(
    "text", ["", "H200", "2x8", "0x8xH200", "2x0xH200", "2x8x8xH200", "-1xH200"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="write nodes x GPUs x name, such as 2x8xH200"):
        Cluster.parse(text)


def test_more_gpus_than_there_are_is_a_slip_of_the_keys() -> None:
    with pytest.raises(ConfigError, match="more than 100,000 GPUs"):
        Cluster.parse("99999999999x8xH200")


def test_an_unknown_gpu_names_the_nearest_and_all_known() -> None:
    with pytest.raises(ConfigError, match=r"no GPU 'H20'.*H200.*known are A100"):
        device("H20")


def test_figures_of_data_sheets_hang_together() -> None:
    # a newer generation never computes slower, nor has it slower memory or links
    ordered = [DEVICES[name] for name in ("A100", "H100", "B200")]
    for figure in ("bandwidth", "bf16_flops", "link_bandwidth"):
        values = [getattr(one, figure) for one in ordered]
        assert values == sorted(values)
    h100, h200 = DEVICES["H100"], DEVICES["H200"]  # the same chip with more and faster memory
    assert h100.bf16_flops == h200.bf16_flops
    assert h100.memory_bytes < h200.memory_bytes


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 80GB HBM3", "fp32", 66.9),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA B200", "bf16", 2250.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA L40S", "bf16", 362.05),
    ],
)
def test_names_that_drivers_give(name: str, precision: str, tflops: float) -> None:
    assert peak_flops(name, precision) == pytest.approx(1e12 * tflops)


@pytest.mark.parametrize(
    "name", ["NVIDIA L4", "NVIDIA L40", "Tesla V100", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", ""]
)
def test_what_is_not_known_has_no_peak(name: str) -> None:
    assert peak_flops(name, "bf16") is None


@pytest.mark.parametrize(
    ("name", "units", "gigahertz"),
    [("H100", 132 * 128, 1.98), ("A100", 108 * 64, 1.41), ("B200", 148 * 128, 1.98)],
)
def test_fp32_units_agree_with_their_number_and_clock(
    name: str, units: int, gigahertz: float
) -> None:
    """Two operations for each unit of every multiprocessor, at the boost clock."""
    assert DEVICES[name].fp32_flops == pytest.approx(2e9 * units * gigahertz, rel=0.01)
