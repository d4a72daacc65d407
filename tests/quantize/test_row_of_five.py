"""The report's row of formats by one command: one table, one evaluation, and no work done twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.cli import main

gguf = pytest.importorskip("gguf", reason="GGUF needs nemo-bielik[gguf]")
pytest.importorskip("cyllama", reason="GGUF needs nemo-bielik[gguf]")


@pytest.fixture(scope="module")
def row_of_five(make_quantizable, edit_weights, lines, tmp_path_factory):
    """The report's row of a model in BF16, calibrated, measured and scored."""
    model = make_quantizable(num_hidden_layers=1)
    with edit_weights(model) as weights:
        for name in weights:
            calm = 0.25 if "layers" in name and "norm" not in name else 1
            weights[name] = (weights[name] * calm).bfloat16()
    output = tmp_path_factory.mktemp("row") / "out"
    call = ["quantize", str(model), "--all", f"--output={output}", f"--texts={lines}"]
    call += ["--calibration-tokens=256", f"--held-out={lines}", "--measured-tokens=256"]
    call += [f"--minimal-pairs={lines.parent / 'minimal_pairs.jsonl'}"]
    call += [f"--facts={lines.parent / 'facts.jsonl'}", "--sequence-length=64", "--context=64"]
    assert main([*call, "--threads=1"]) == 0
    return model, output, json.loads((output / "quantize.json").read_text()), call


def test_one_command_makes_the_reports_row_and_one_table(row_of_five, capsys):
    model, output, found, call = row_of_five
    assert [row["format"] for row in found["formats"]] == ["Q8_0", "Q6_K", "Q4_K_M", "fp8", "nvfp4"]
    assert found["model"]["fingerprint"] == Checkpoint.open(model).fingerprint()
    measured = {"perplexity", "loss_percent", "kl", "top1_agreement", "minimal_pairs_accuracy"}
    for row in found["formats"]:
        assert (output / row["file"]).exists()
        assert measured | {"fact_accuracy", "bits_per_weight", "fits"} <= row.keys()
        served = row["format"] in ("fp8", "nvfp4")
        assert ("tokens_per_second" in row) != served  # what is simulated is not a server's speed
        assert ("memory_bytes" in row) != served
        assert row["engine"] == ("transformers, simulated" if served else "llama.cpp")
    fp8, nvfp4 = found["formats"][-2:]
    assert fp8["bits_per_weight"] > nvfp4["bits_per_weight"]
    assert 0 < fp8["kl"] < nvfp4["kl"]
    assert main([*call, "--threads=1"]) == 0
    assert "already done" in capsys.readouterr().out


def test_both_programs_see_the_same_unquantised_model(row_of_five):
    """Perplexity, minimal pairs and facts in llama.cpp are those of transformers."""
    _, _, found, _ = row_of_five
    llama, torch = found["unquantised"].values()
    assert set(found["unquantised"]) == {"llama.cpp", "transformers"}
    nats = [np.log(one["perplexity"]) for one in (llama, torch)]
    assert nats[0] == pytest.approx(nats[1], abs=0.01)  # llama.cpp rounds BF16's inputs to BF16
    for score in ("minimal_pairs_accuracy", "fact_accuracy"):
        assert llama[score] == torch[score]


def test_scores_and_perplexity_are_an_evaluations(row_of_five, lines, tmp_path):
    from nemo_bielik.evaluate.config import EvaluateConfig
    from nemo_bielik.evaluate.stage import evaluate

    model, _, found, _ = row_of_five
    folder = lines.parent
    evaluate(
        EvaluateConfig(
            model=model,
            output=tmp_path / "scored",
            minimal_pairs=folder / "minimal_pairs.jsonl",
            facts=folder / "facts.jsonl",
            sequence_length=64,
        )
    )
    scored = json.loads((tmp_path / "scored" / "results.json").read_text())
    for own in found["unquantised"].values():
        for score in ("minimal_pairs_accuracy", "fact_accuracy"):
            assert own[score] == scored[score]


def test_a_killed_command_goes_on_after_the_last_whole_file(row_of_five, tmp_path, monkeypatch):
    """It dies in the second format for servers; what was whole by then is not made again."""
    from nemo_bielik.quantize import modelopt

    model, _, _, call = row_of_five
    left_out = ("--all", "--output", "--minimal-pairs", "--facts")
    settings = [word for word in call[2:] if not word.startswith(left_out)]
    words = ["quantize", str(model), f"output={tmp_path / 'out'}", "formats=[Q8_0,fp8,nvfp4]"]
    usual = modelopt.write_checkpoint

    def killed(source, output, kind, *rest, **more):
        if kind.name == "nvfp4":
            raise KeyboardInterrupt
        usual(source, output, kind, *rest, **more)

    monkeypatch.setattr(modelopt, "write_checkpoint", killed)
    assert main([*words, *settings]) == 130
    work = tmp_path / ".out.work"
    made = [f"{model.name}-Q8_0.gguf", f"{model.name}-fp8/model.safetensors"]
    numbers = [(work / name).stat().st_ino for name in made]
    assert not (work / f"{model.name}-nvfp4").exists()
    monkeypatch.setattr(modelopt, "write_checkpoint", usual)
    assert main([*words, *settings, f"held_out={tmp_path / 'other.jsonl'}"]) == 2  # no such text
    other = tmp_path / "other.jsonl"
    other.write_bytes(Path(settings[0].partition("=")[2]).read_bytes())
    assert main([*words, *settings, f"held_out={other}"]) == 0  # the files do not follow from it
    assert [(tmp_path / "out" / name).stat().st_ino for name in made] == numbers
    assert not work.exists()
