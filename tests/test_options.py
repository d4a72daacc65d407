"""Command lines derived from dataclasses: every type, overrides, and what is refused."""

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from nemo_bielik.config_text import format_config, to_plain
from nemo_bielik.errors import ConfigError
from nemo_bielik.options import apply_overrides, parse_config, settings


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(kw_only=True)
class Parallel:
    tensor: int = field(default=1, metadata={"help": "tensor-parallel ranks"})
    pipeline: int = 1

    def __post_init__(self) -> None:
        if self.tensor > 8:
            raise ConfigError(f"tensor is {self.tensor}; at most 8")


@dataclass(kw_only=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    parallel: Parallel = field(default_factory=lambda: Parallel(pipeline=3))


@dataclass(kw_only=True)
class Leg:
    miles: int
    pace: float | None = None
    stops: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.miles > 99:
            raise ConfigError(f"miles is {self.miles}; at most 99")


@dataclass(kw_only=True)
class Config:
    """A stage with one setting of every type."""

    model: Path = field(metadata={"help": "model directory, 100 % of it"})
    steps: int = field(default=10, metadata={"help": "optimizer steps"})
    rate: float = 0.5
    name: str = "run"
    shuffle: bool = True
    limit: int | None = None
    mode: Literal["fast", "exact"] = "fast"
    colour: Colour = Colour.RED
    texts: list[Path] = field(default_factory=list)
    sizes: tuple[int, ...] = (1, 2)
    layers: int | str = "all"
    legs: list[Leg] = field(default_factory=list)
    optimizer: Optimizer = field(default_factory=Optimizer)
    parallel: Parallel | None = None


def parse(*argv: str) -> Config:
    config = parse_config(Config, argv, "bielik stage")
    assert isinstance(config, Config)
    return config


def test_defaults_are_the_dataclass_defaults() -> None:
    assert parse("--model", "m") == Config(model=Path("m"))


@pytest.mark.parametrize(
    ("argv", "field_name", "value"),
    [
        (["--steps", "3"], "steps", 3),
        (["--steps=3"], "steps", 3),
        (["--rate", "1e-4"], "rate", 1e-4),
        (["--rate", "-1"], "rate", -1.0),
        (["--no-shuffle"], "shuffle", False),
        (["--shuffle"], "shuffle", True),
        (["shuffle=false"], "shuffle", False),
        (["--limit", "7"], "limit", 7),
        (["--limit", "none"], "limit", None),
        (["--mode", "exact"], "mode", "exact"),
        (["--colour", "blue"], "colour", Colour.BLUE),
        (["--texts", "a", "b"], "texts", [Path("a"), Path("b")]),
        (["texts=a,b"], "texts", [Path("a"), Path("b")]),
        (["texts=[]"], "texts", []),
        (["--sizes", "3"], "sizes", (3,)),
        (["sizes=[3, 4]"], "sizes", (3, 4)),
        (["--layers", "4"], "layers", 4),
        (["--layers", "odd"], "layers", "odd"),
        (["name=a=b"], "name", "a=b"),
        (["--name", "a=b"], "name", "a=b"),
        (["--name="], "name", ""),
    ],
)
def test_a_value_is_read_by_its_type(argv: list[str], field_name: str, value: object) -> None:
    got = getattr(parse("--model", "m", *argv), field_name)
    assert got == value
    assert type(got) is type(value)


def test_overrides_reach_nested_fields_and_keep_their_neighbours() -> None:
    config = parse("--model", "m", "optimizer.learning_rate=2", "optimizer.parallel.tensor=4")
    assert config.optimizer == Optimizer(learning_rate=2.0, parallel=Parallel(tensor=4, pipeline=3))


def test_an_override_creates_an_absent_nested_config() -> None:
    assert parse("--model", "m", "parallel.tensor=2").parallel == Parallel(tensor=2)
    assert parse("--model", "m", "parallel=none").parallel is None


def test_a_fixed_tuple_takes_as_many_values_as_it_has() -> None:
    assert parse("model=m", "optimizer.betas=0.8,0.9").optimizer.betas == (0.8, 0.9)
    with pytest.raises(ConfigError, match=r"optimizer.betas: takes 2 values, got 3"):
        parse("model=m", "optimizer.betas=1,2,3")


def test_overrides_end_a_list_option() -> None:
    config = parse("--model", "m", "--texts", "a", "b", "steps=4")
    assert (config.texts, config.steps) == ([Path("a"), Path("b")], 4)


def test_a_list_value_with_a_colon_is_no_override() -> None:
    config = parse("--model", "m", "--texts", "a:x=1", "b:x=1,y=2")
    assert config.texts == [Path("a:x=1"), Path("b:x=1,y=2")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--model is required (model directory"),
        (["--stesp", "3"], "unknown option '--stesp' (did you mean '--steps'?)"),
        (["--step", "3"], "unknown option '--step' (did you mean '--steps'?)"),
        (["stray"], "unknown argument 'stray'"),
        (["stesp=3"], "unknown setting 'stesp' (did you mean 'steps'?)"),
        (["optimizer.learning_rat=3"], "(did you mean 'learning_rate'?)"),
        (["optimiser.learning_rate=3"], "(did you mean 'optimizer'?)"),
        (["steps.x=3"], "'steps' is one value"),
        (["optimizer=3"], "optimizer has parts"),
        (["--steps", "many"], "--steps: 'many' is not a whole number"),
        (["--steps"], "--steps"),
        (["--rate", "x"], "--rate: 'x' is not a number"),
        (["shuffle=perhaps"], "shuffle: 'perhaps' is not true or false"),
        (["--mode", "fats"], "'fats' is not one of fast, exact (did you mean 'fast'?)"),
        (["--colour", "green"], "not one of red, blue"),
        (["model=m", "parallel.tensor=9"], "tensor is 9; at most 8"),
    ],
)
def test_what_is_refused_is_said_in_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("before", [[], ["--model"], ["steps=2"]])
def test_help_shows_options_defaults_and_nested_settings(
    capsys: pytest.CaptureFixture[str], before: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*before, "--help")  # an option that waits for a value gets no "--help"
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for part in (
        "--model PATH",
        "100 % of it (required)",
        "optimizer steps (default: 10)",
        "--shuffle, --no-shuffle",
        "{fast,exact}",
        "optimizer.learning_rate=X",
        "optimizer.parallel.tensor=N",
        "tensor-parallel ranks (default: 1)",
    ):
        assert part in text


def test_help_shows_the_default_of_a_nested_field_as_its_owner_sets_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    line = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if "optimizer.parallel.pipeline=" in line
    )
    assert "(default: 3)" in line


def test_apply_overrides_changes_an_existing_config() -> None:
    before = Config(model=Path("m"), optimizer=Optimizer(learning_rate=0.25))
    after = apply_overrides(before, ["optimizer.parallel.tensor=2", "steps=1"], "recipe")
    expected = dataclasses.replace(
        before,
        steps=1,
        optimizer=Optimizer(learning_rate=0.25, parallel=Parallel(tensor=2, pipeline=3)),
    )
    assert after == expected
    assert before.steps == 10


def test_settings_follow_the_fields() -> None:
    assert [s.name for s in settings(Config)] == [f.name for f in dataclasses.fields(Config)]


def test_plain_values_and_yaml_hold_the_whole_config() -> None:
    config = Config(model=Path("m"), texts=[Path("a")])
    plain = to_plain(config)
    assert plain["model"] == "m"
    assert plain["texts"] == ["a"]
    assert plain["colour"] == "red"
    assert plain["optimizer"]["parallel"] == {"tensor": 1, "pipeline": 3}
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(format_config(config)) == plain


def test_one_setting_may_come_first_without_its_name():
    @dataclass(kw_only=True)
    class Check:
        output: Path = field(metadata={"positional": True})
        source: Path | None = None

    for words in (["out", "--source", "s"], ["--source", "s", "--output", "out"]):
        assert parse_config(Check, words, "bielik check") == Check(
            output=Path("out"), source=Path("s")
        )
    with pytest.raises(ConfigError, match="unknown argument 'more'"):
        parse_config(Check, ["out", "more"], "bielik check")


LEGS = (
    '[{"miles": 3}, {"miles": 4, "pace": 1.5, "stops": ["a b", "c"]}, {"miles": 5, "pace": null}]'
)


def test_a_list_of_records_is_json() -> None:
    expected = [
        Leg(miles=3),
        Leg(miles=4, pace=1.5, stops=[Path("a b"), Path("c")]),
        Leg(miles=5),
    ]
    assert parse("--model=m", f"legs={LEGS}").legs == expected
    assert parse("--model=m", "--legs", LEGS).legs == expected
    assert parse("--model=m", "legs=[]").legs == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{", "is not JSON"),
        ("3", "is not a list of objects"),
        ("[3]", "is not a list of objects"),
        ('[{"pace": 1}]', "legs[0]: miles must be given"),
        ('[{"miles": 1}, {"mils": 2}]', "legs[1]: unknown setting 'mils' (did you mean 'miles'?)"),
        ('[{"miles": "far"}]', "legs[0].miles: 'far' is not a whole number"),
        ('[{"miles": true}]', "legs[0].miles: 'true' is not a whole number"),
        ('[{"miles": 1, "pace": [2]}]', "legs[0].pace: '[2]' is not a number"),
        ('[{"miles": 100}]', "legs[0]: miles is 100; at most 99"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("--model=m", f"legs={text}")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_takes_the_place_of_defaults_and_of_what_is_required() -> None:
    """A recipe may be the whole, or a part that knows nothing of the required fields."""

    @dataclass(kw_only=True)
    class Inner:
        rate: float = 1.0
        steps: int = 10

    @dataclass(kw_only=True)
    class Part:
        iters: int = 5
        inner: Inner = field(default_factory=Inner)

    @dataclass(kw_only=True)
    class Whole(Part):
        model: Path

    part = Part(iters=7, inner=Inner(rate=2.0))
    found = parse_config(Whole, ["--model=m", "inner.steps=3"], "bielik x", part)
    assert found == Whole(model=Path("m"), iters=7, inner=Inner(rate=2.0, steps=3))
    assert part == Part(iters=7, inner=Inner(rate=2.0))  # untouched
    whole = Whole(model=Path("w"), iters=9)
    assert parse_config(Whole, [], "bielik x", whole) == whole
    assert parse_config(Whole, ["iters=1"], "bielik x", whole).iters == 1
    with pytest.raises(ConfigError, match="--model is required"):
        parse_config(Whole, [], "bielik x", part)
