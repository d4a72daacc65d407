"""What `bielik evaluate` writes of suites is what `bielik recovery` reads."""

import json

from nemo_bielik import cli
from nemo_bielik.checkpoint import copy_tokenizer


def test_recovery_reads_suites(make_model, suite_model, put_data, tmp_path, capsys):
    student = make_model(seed=1, vocab_size=320, max_position_embeddings=4096, num_hidden_layers=1)
    copy_tokenizer(suite_model, student)
    # half of them the other way round, so that any model has some right
    names = [("dom", "kot"), ("kot", "dom")] * 3
    pairs = [{"good": f"{good} {n}", "bad": f"{bad} {n}"} for n, (good, bad) in enumerate(names)]
    put_data(tmp_path / "data", "nemo-bielik/minimal-pairs", test=pairs)
    suites = ["minimal-pairs", "medical", "cptub"]
    for name, model in (("teacher", suite_model), ("student", student)):
        words = ["--model", model, "--output", tmp_path / name, "--data-dir", tmp_path / "data"]
        words += ["--limit", "4", "--suites", *suites]
        assert cli.main(["evaluate", *map(str, words)]) == 0
    words = ["--teacher", tmp_path / "teacher", "--students", tmp_path / "student"]
    words += ["--output", tmp_path / "recovery", "--resamples", "100"]
    assert cli.main(["recovery", *map(str, words)]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "recovery" / "results.json").read_text(encoding="utf-8"))
    for suite in suites:
        assert suite in json.dumps(found), "a suite that was not run is not left out"
    row = next(row for row in found["rows"] if row["name"] == "minimal_pairs")
    for role in ("teacher", "student"):
        results = json.loads((tmp_path / role / "results.json").read_text(encoding="utf-8"))
        task = results["suites"]["minimal-pairs"]["tasks"]["minimal_pairs"]
        assert row[f"{role}_score"] == task["score"] and row["items"] == task["items"] == 4
    assert row["limited"] == ["minimal-pairs"]
