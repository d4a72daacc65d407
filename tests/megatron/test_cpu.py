"""The CPU runtime answers what Megatron asks of CUDA, and leaves nothing behind."""

import pytest
import torch

from nemo_bielik.parallel import ParallelConfig

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the CPU runtime does nothing where CUDA is present"
)


def test_what_is_asked_for_on_cuda_lands_on_the_cpu(call):
    devices = call("runtime_cases:landings")[0]
    on_meta = {name for name, device in devices.items() if device == "meta"}
    assert on_meta == {"meta", "to meta", "meta block", "meta block afterwards"}
    assert {devices[name] for name in devices.keys() - on_meta} == {"cpu"}


def test_everything_but_the_device_is_passed_on(call):
    for name, (found, expected) in call("runtime_cases:values_kept")[0].items():
        assert found == expected, name


def test_groups_asked_for_on_nccl_are_gloo(call):
    assert call("runtime_cases:groups_asked_for_on_nccl")[0] == ["gloo", "gloo"]


@pytest.mark.parametrize("how", ["left", "error", "twice"])
def test_every_attribute_is_the_original_afterwards(call, how):
    within, after = call("runtime_cases:replaced", how)[0]
    expected = {
        "torch.empty",
        "torch.cuda.current_device",
        "torch.distributed.new_group",
        "Tensor.to",
        "Module.cuda",
        "megatron.bridge.training.setup.initialize_megatron",
        "megatron.core.tensor_parallel.random._get_cuda_rng_state",
    }
    assert expected <= set(within)
    assert after == []


def test_nothing_is_replaced_where_cuda_is_present(call):
    assert call("runtime_cases:replaced", "CUDA")[0] == ([], [])


def test_strided_tensors_and_scalars_arrive_right_over_gloo(call):
    found = call("runtime_cases:exchanged", parallel=ParallelConfig(data=2))
    matrix = torch.arange(12.0).view(3, 4)
    for rank, received in enumerate(found):
        assert torch.equal(received["column"], matrix[:, rank])
        assert torch.equal(received["block"], matrix[:, 2 * rank : 2 * rank + 2])
        assert received["scalars"].tolist() == [5, 6]
