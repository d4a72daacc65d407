import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B

ARCHS = {"BielikConfig11B": BIELIK_11B_V3, "BielikMinitronConfig7B": BIELIK_MINITRON_7B}


@pytest.mark.parametrize("name", ARCHS)
def test_a_configuration_is_its_preset(name, nemo2):
    arch, window, divisor = nemo2("arch_of", name)
    assert arch.replace(name="") == ARCHS[name].replace(name="")
    assert (window, divisor) == (None, 1)  # no sliding window, no padded vocabulary
