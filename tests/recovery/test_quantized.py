"""The table of formats on the recovery page and on the card, against the table's own file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.cli import main
from nemo_bielik.errors import DataError
from nemo_bielik.recovery.quantized import quantized_section, report_changes
from nemo_bielik.recovery.stage import RecoveryConfig, recover

SERVED = "transformers, simulated"


def row(name: str, loss: float, engine: str = "llama.cpp", **more: Any) -> dict[str, Any]:
    return {
        "format": name,
        "engine": engine,
        "bytes": 4_500_000_000,
        "bits_per_weight": 4.89,
        "named_type": "Q4_K",
        "named_share": 0.8,
        "indivisible": {},
        "perplexity": 8.0,
        "loss_percent": loss,
        "kl": 0.01234,
        "top1_agreement": 0.953,
        "fits": ["L4"],
        "longest_context": {"T4": 10, "L4": 9000},
        **more,
    }


def formats(fingerprint: str = "b" * 64) -> dict[str, Any]:
    """Return a ``quantize.json``."""
    return {
        "model": {"name": "small", "fingerprint": fingerprint},
        "context": 8192,
        "unquantised": {"llama.cpp": {"perplexity": 7.9, "tokens_per_second": 20.0}},
        "formats": [
            row("Q4_K_M", 1.25, tokens_per_second=61.2, memory_bytes=4.7e9),
            row("Q2_K", 9.5, indivisible={"<b>": "Q4_0", "blk.1": "Q4_0"}),
            row("nvfp4", -0.5, SERVED),
        ],
    }


@pytest.fixture
def page_and_card(
    evaluation: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[str, str]]:
    """Return a function from a table to the recovery page and the card that it stands on."""

    def make(found: dict[str, Any], student: str = "b" * 64) -> tuple[str, str]:
        folder = tmp_path / "quantized"
        folder.mkdir()
        (folder / "quantize.json").write_text(json.dumps(found), encoding="utf-8")
        config = RecoveryConfig(
            teacher=evaluation("teacher", "1111", fingerprint="a" * 64),
            students=[evaluation("student", "1101", fingerprint=student)],
            output=tmp_path / "recovery",
            quantized=folder,
        )
        recover(config)
        read = [config.output / name for name in ("recovery.html", "README.md")]
        page, card = (path.read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ") for path in read)
        return page, card

    return make


def test_the_reports_changes_are_those_it_prints():
    """Its section 6.9: degradations of 0.27 %, 0.64 %, 0.91 %, 1.49 % and 3.71 %."""
    found = {name: round(change, 2) for name, change in report_changes().items()}
    assert found == {"Q6_K": -0.27, "Q8_0": -0.64, "Q4_K_M": -0.91, "FP8": -1.49, "NVFP4": -3.71}


def test_formats_stand_on_page_and_card_beside_the_reports(page_and_card, tmp_path):
    page, card = page_and_card(formats())
    line = "| Q4\\_K\\_M | 4.50 GB | 4.89 | 80.0 % | 1 of 2 | 8.000 | +1.25 % | 0.01234 | 95.3 % |"
    assert f"{line} 61.2 | 4.70 GB | −0.91 % |" in card
    assert "| nvfp4 | 4.50 GB | 4.89 | 80.0 % | 1 of 2 | 8.000 | −0.50 % |" in card
    assert "| – | – | −3.71 % |" in card  # nvfp4 has no speed and no memory
    assert "| unquantised, llama.cpp | – | – | – | – | 7.900 | – |" in card
    assert '<td data-figure="quantized.Q4_K_M.loss_percent">+1.25 %</td>' in page
    for text in (page, card):
        assert "nvfp4: exported, read back and simulated, so there is no speed." in text
        assert "Q2" in text and "rows of 2 matrices do not divide into" in text
        assert "Not checked" not in text
    stored = json.loads((tmp_path / "recovery" / "results.json").read_text())["quantized"]
    assert [one["format"] for one in stored["formats"]] == ["Q4_K_M", "Q2_K", "nvfp4"]


def test_formats_of_another_model_are_refused(page_and_card, tmp_path):
    with pytest.raises(DataError, match=r"made from small \(hash cccccccccccc\), not from the mod"):
        page_and_card(formats("c" * 64))
    assert not (tmp_path / "recovery").exists()


def test_an_evaluation_without_a_hash_is_said_not_to_be_checked(page_and_card):
    for text in page_and_card(formats(), student=""):
        assert "Not checked to be the evaluated model" in text


def test_without_formats_there_is_no_section():
    assert quantized_section(None) is None


def test_what_is_no_table_is_one_line(evaluation, tmp_path, capsys):
    words = [f"teacher={evaluation('teacher', '1111')}", f"output={tmp_path / 'out'}"]
    words += [f"students=[{evaluation('student', '1101')}]", f"quantized={tmp_path}"]
    assert main(["recovery", *words]) == 2
    assert "holds no quantize.json; make one with `bielik quantize`" in capsys.readouterr().err
    (tmp_path / "quantize.json").write_text("{}")
    assert main(["recovery", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "quantize.json" in line and "model" in line
    assert not (tmp_path / "out").exists()
