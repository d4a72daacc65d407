"""``bielik quantize``: every file loads and generates, says what it is, and is weighed."""

import dataclasses
import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.cli import main
from nemo_bielik.errors import ConfigError, DataError, StorageError
from nemo_bielik.quantize.config import QuantizeConfig
from nemo_bielik.quantize.formats import FORMATS, find_formats
from nemo_bielik.quantize.gguf_plan import plan_files
from nemo_bielik.quantize.llama_cpp import LlamaModel
from nemo_bielik.quantize.stage import quantize
from nemo_bielik.quantize.table import format_table, with_cards

gguf = pytest.importorskip("gguf", reason="GGUF needs nemo-bielik[gguf]")
pytest.importorskip("cyllama", reason="GGUF needs nemo-bielik[gguf]")

#: Bytes of formats: a T4 has 15 of its 16 GiB, an RTX 4000 Ada 20, and 1.5 GiB are for programs.
SIZES = {"small": 10**6, "little": 13 * 2**30, "middle": 18 * 2**30, "large": 23 * 2**30}
LADDER = ("Q8_0", "Q6_K", "Q4_K_M", "Q2_K")


@pytest.fixture(scope="module")
def quantized(make_quantizable, edit_weights, lines, tmp_path_factory):
    """A model and its files of all kinds, measured, with no importance matrix."""
    model = make_quantizable()
    with edit_weights(model) as weights:
        for name in weights:
            weights[name] = weights[name].bfloat16()
    output = tmp_path_factory.mktemp("quantized") / "files"
    config = QuantizeConfig(
        model=model,
        output=output,
        formats=["BF16", *LADDER],
        held_out=[lines],
        sequence_length=32,
        calibration_tokens=256,
        measured_tokens=512,
        context=64,
        threads=1,
    )
    quantize(config)
    return config


def rows(config):
    found = json.loads((config.output / "quantize.json").read_text())
    return {row["format"]: row for row in found["formats"]}


def test_every_file_loads_and_generates(quantized):
    for row in rows(quantized).values():
        llama = LlamaModel(quantized.output / row["file"], 64, 1)
        tokens, _ = llama.generate([1, 40, 50], 8)
        assert len(tokens) == 8
        assert all(0 <= token < llama.vocab_size for token in tokens)


def test_divergence_falls_as_bits_rise(quantized):
    found = rows(quantized)
    bits = [found[name]["bits_per_weight"] for name in ("BF16", *LADDER)]
    losses = [found[name]["kl"] for name in ("BF16", *LADDER)]
    assert bits == sorted(bits, reverse=True)
    assert losses == sorted(losses)
    assert losses[0] < 1e-6  # the file itself: the model is stored in BF16
    assert found["BF16"]["top1_agreement"] == 1


def test_the_table_says_what_the_file_holds(quantized):
    for name, row in rows(quantized).items():
        path = quantized.output / row["file"]
        tensors = gguf.GGUFReader(path).tensors
        weights = sum(int(one.n_elements) for one in tensors)
        kind = FORMATS[name].block_type
        named = sum(int(one.n_elements) for one in tensors if one.tensor_type.name == kind)
        assert row["bytes"] == path.stat().st_size
        assert row["named_share"] == pytest.approx(named / weights)
        stored = sum(int(one.n_bytes) for one in tensors)
        assert row["bits_per_weight"] == pytest.approx(8 * stored / weights)


def test_sizes_and_types_are_known_beforehand(quantized):
    plans = plan_files(Checkpoint.open(quantized.model), quantized.gguf_formats)
    found = rows(quantized)
    for plan in plans:
        assert plan.num_bytes == found[plan.wanted.name]["bytes"]
        assert plan.shares == found[plan.wanted.name]["shares"]


def test_it_is_done_once(quantized, capsys):
    quantize(quantized)
    assert "already done" in capsys.readouterr().out
    assert not (quantized.output.parent / ".files.work").exists()


def test_q8_0_is_what_the_gguf_library_computes(quantized):
    files = {name: quantized.output / rows(quantized)[name]["file"] for name in ("BF16", "Q8_0")}
    read = {
        name: {one.name: one for one in gguf.GGUFReader(path).tensors}
        for name, path in files.items()
    }
    for name, tensor in read["Q8_0"].items():
        if tensor.tensor_type.name != "Q8_0":
            continue
        source = read["BF16"][name]
        values = gguf.dequantize(source.data, source.tensor_type)
        expected = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(tensor.data, expected)


def test_rows_that_do_not_divide_are_named(make_quantizable, tmp_path, capsys):
    model = make_quantizable(hidden_size=96, intermediate_size=256, head_dim=24)
    (plan,) = plan_files(Checkpoint.open(model), find_formats(["Q4_K_M"]))
    assert "blk.0.ffn_down.weight" not in plan.indivisible  # its rows have 256 weights
    assert plan.types["blk.0.ffn_down.weight"] in ("Q4_K", "Q6_K")
    assert plan.indivisible["blk.0.attn_q.weight"] == "Q5_0"
    assert 0 < plan.named_share < 0.5
    quantize(QuantizeConfig(model=model, output=tmp_path / "out", formats=["Q4_K_M"], context=64))
    said = capsys.readouterr().out
    assert f"rows of {len(plan.indivisible)} matrices do not divide into Q4_K blocks" in said
    assert f"{plan.named_share:.1%} Q4_K" in said
    for text in (said, plan.line()):  # the table, and a dry run
        assert "blk.*.attn_q (2): Q5_0" in text
        assert "token_embd (1): " in text
        assert "ffn_down" not in text


def test_the_table_says_for_which_context_a_card_is_counted(quantized, capsys):
    """The model knows 128 positions, so 8,192 tokens are no context of it."""
    arch = Checkpoint.open(quantized.model).arch
    config = dataclasses.replace(quantized, context=8192)
    context = config.context_of(arch)
    assert context == 128
    kept = {name: {"format": name, "bytes": size} for name, size in SIZES.items()}
    made = [with_cards(row, arch, context) for row in kept.values()]
    common = {"bits_per_weight": 1, "named_share": 1, "named_type": "x", "indivisible": {}}
    made = [row | common | {"engine": ""} for row in made]
    text = format_table({"context": context, "unquantised": {}, "formats": made})
    assert "cards at 128 tokens" in text
    assert (
        "smallest card that holds 128 tokens beside the weights: T4 (16 GB) for small, little; "
        "RTX-4000-ADA (20 GB) for middle; none of 16 to 24 GB for large"
    ) in text


def test_a_full_temporary_folder_is_told_as_such(make_quantizable, tmp_path, capsys):
    model = make_quantizable()
    words = ["quantize", str(model), f"--output={tmp_path / 'out'}", "--formats=Q8_0", "--dry-run"]
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        assert main(words) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "(File too large); free some space there, or name another folder in TMPDIR" in line


def test_an_importance_matrix_changes_the_file_and_helps(
    make_quantizable, edit_weights, lines, tmp_path
):
    model = make_quantizable()
    with edit_weights(model) as weights:  # a few inputs matter far more than the others
        for name in weights:
            if "layernorm" in name:
                weights[name][::16] *= 8
    common = {
        "model": model,
        "formats": ["Q2_K"],
        "held_out": [lines],
        "sequence_length": 32,
        "measured_tokens": 512,
        "context": 64,
        "threads": 1,
    }
    quantize(QuantizeConfig(output=tmp_path / "plain", **common))
    config = QuantizeConfig(
        output=tmp_path / "weighed", texts=[lines], calibration_tokens=1024, **common
    )
    quantize(config)
    files = [next((tmp_path / name).glob("*.gguf")) for name in ("plain", "weighed")]
    assert files[0].stat().st_size == files[1].stat().st_size
    assert files[0].read_bytes() != files[1].read_bytes()
    plain, weighed = (
        json.loads((tmp_path / name / "quantize.json").read_text())["formats"][0]["kl"]
        for name in ("plain", "weighed")
    )
    assert weighed < plain


def test_the_importance_matrix_is_the_mean_square_of_the_inputs(make_quantizable):
    import torch
    from transformers import AutoModelForCausalLM

    from nemo_bielik.quantize.importance import collect_importance

    directory = make_quantizable()
    windows = [[1, 5, 9, 300], [1, 77, 8, 2]]
    found = collect_importance(Checkpoint.open(directory), windows)
    assert len(found) == 14
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        states = model.model.embed_tokens(torch.tensor(windows))
        normed = model.model.layers[0].input_layernorm(states)
    expected = normed.square().mean((0, 1)).numpy()
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found[f"blk.0.{name}.weight"], expected, rtol=1e-4)


@pytest.fixture
def costly(quantized, lines, tmp_path):
    """Settings under which perplexity rises: chance may make that of a Q8_0 fall."""
    loss = rows(quantized)["Q8_0"]["loss_percent"]
    return QuantizeConfig(
        model=quantized.model,
        output=tmp_path / "out",
        formats=["Q8_0" if loss > 0 else "Q2_K"],
        held_out=[lines],
        sequence_length=32,
        measured_tokens=64,
        max_loss=0.0,
        context=64,
    )


def test_a_format_that_costs_too_much_is_refused_after_its_table(costly, tmp_path, capsys):
    with pytest.raises(DataError, match=r"max_loss=0; leave these formats out, give texts .*allow"):
        quantize(costly)
    said = capsys.readouterr().out
    assert "perplexity" in said
    assert costly.formats[0] in said
    assert not costly.output.exists()
    (made,) = (tmp_path / ".out.work").glob(f"*{costly.formats[0]}.gguf")
    number = made.stat().st_ino
    costly.max_loss = None
    quantize(costly)  # goes on with the file that is there
    assert capsys.readouterr().out == said
    assert (costly.output / made.name).stat().st_ino == number
    assert not (tmp_path / ".out.work").exists()


def test_another_limit_of_the_loss_measures_nothing_again(costly, monkeypatch, capsys):
    costly.formats = [*costly.formats, "fp8"]
    costly.texts, costly.calibration_tokens = costly.held_out, 64
    with pytest.raises(DataError) as refused:
        quantize(costly)
    error = str(refused.value)
    assert "importance matrix" not in error  # texts were given
    assert ("(keep)" in error) == ("fp8 by" in error)
    said = capsys.readouterr().out
    work = costly.output.parent / ".out.work" / "quantize.json"
    measured = json.loads(work.read_text())

    def again(*_):
        raise AssertionError("measured again")

    for kind in ("gguf_files.GgufFiles", "server_files.ServerFiles"):
        monkeypatch.setattr(f"nemo_bielik.quantize.{kind}.rows", again)
    costly.max_loss = 1e6
    quantize(costly)
    assert capsys.readouterr().out == said
    assert rows(costly) == {row["format"]: row for row in measured["formats"]}


def test_other_texts_to_measure_on_are_measured(costly, lines, tmp_path):
    with pytest.raises(DataError):
        quantize(costly)
    work = tmp_path / ".out.work" / "quantize.json"
    before = json.loads(work.read_text())["unquantised"]
    costly.held_out = [tmp_path / "other.jsonl"]
    costly.held_out[0].write_text("".join(reversed(lines.read_text().splitlines(keepends=True))))
    costly.max_loss = None
    quantize(costly)
    after = json.loads((costly.output / "quantize.json").read_text())["unquantised"]
    assert before["llama.cpp"]["perplexity"] != after["llama.cpp"]["perplexity"]


def test_a_machine_without_the_packages_is_told_what_to_install(
    make_quantizable, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = QuantizeConfig(model=make_quantizable(), output=tmp_path / "out", formats=["Q8_0"])
    with pytest.raises(ConfigError, match=r"install nemo-bielik\[gguf\]"):
        quantize(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": []}, "formats is empty"),
        ({"formats": ["Q4_KM"]}, "did you mean 'Q4_K_M'"),
        ({"formats": ["IQ2_XXS"]}, "needs an importance matrix"),
        ({"formats": ["Q8_0"], "max_loss": 1.0}, "needs held_out"),
        ({"formats": ["Q8_0"], "max_loss": math.nan, "held_out": [Path("t")]}, "0 or more"),
        ({"formats": ["Q8_0"], "max_loss": math.inf, "held_out": [Path("t")]}, "0 or more"),
        ({"formats": ["Q8_0"], "measured_tokens": 8}, "at least one window"),
        (
            {
                "formats": ["fp8"],
                "texts": [Path("t")],
                "kv_cache": "fp8",
                "max_loss": 1.0,
                "held_out": [Path("t")],
            },
            "max_loss judges weights and activations, not keys and values",
        ),
    ],
)
def test_bad_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        QuantizeConfig(model=tmp_path, output=tmp_path / "out", **settings)


def test_bad_input_gives_one_line_and_no_file(make_quantizable, lines, tmp_path, capsys):
    model, output = make_quantizable(), tmp_path / "out"
    call = ["quantize", f"--model={model}", f"--output={output}", "--formats=Q8_0"]
    call += ["--sequence-length=64"]
    assert main([*call, f"--texts={lines}", "--calibration-tokens=100000000"]) == 2
    error = capsys.readouterr().err
    assert "100,000,000 are asked for" in error
    assert len(error.strip().splitlines()) == 1
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "qwen9"}))
    assert main(call) == 2
    assert "architecture 'qwen9' is not supported" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_space_is_told_before_anything_is_written(make_quantizable, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    config = QuantizeConfig(model=make_quantizable(), output=tmp_path / "out", formats=["Q8_0"])
    with pytest.raises(StorageError, match=r"only 0\.00 GB are free"):
        quantize(config)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_sizes_and_memory(make_quantizable, lines, tmp_path, capsys):
    model = make_quantizable()
    call = ["quantize", str(model), f"--output={tmp_path / 'out'}", "--all", "--dry-run"]
    call += [f"--texts={lines}", "--sequence-length=64", f"--held-out={lines}"]
    assert main(call) == 0
    said = capsys.readouterr().out
    (plan,) = plan_files(Checkpoint.open(model), find_formats(["Q4_K_M"]))
    assert f"Q4_K_M {plan.num_bytes:>17,} bytes" in said
    for step in ("the importance matrix", "calibration", "measuring servers' formats"):
        assert f"{step} needs about" in said
    assert not (tmp_path / "out").exists()
