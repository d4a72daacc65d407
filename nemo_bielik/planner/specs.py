"""How a user names an architecture: a preset, a model directory, or either with changes."""

import json
from pathlib import Path
from typing import get_type_hints

from nemo_bielik.arch import PRESETS, ModelArch, preset
from nemo_bielik.errors import CheckpointError, ConfigError, nearest
from nemo_bielik.option_values import parse_value

_SOURCE = "source"


def resolve_arch(spec: str, source: ModelArch | None = None) -> ModelArch:
    """Return the architecture that `spec` names.

    `spec` is a preset, a model directory (or its config.json), or one of them followed by changes:
    ``bielik-11b-v3:num_layers=40,ffn_hidden_size=11264``. The word ``source`` stands for `source`.
    """
    if Path(spec).exists() and not _is_preset(spec):
        return read_arch(Path(spec))
    base, colon, changes = spec.rpartition(":")
    if colon and "=" in changes:
        return _changed(_resolve_base(base, source), changes, spec)
    return _resolve_base(spec, source)


def read_arch(path: Path) -> ModelArch:
    """Read the architecture of a model directory; `CheckpointError` says what is wrong with it."""
    file = path / "config.json" if path.is_dir() else path
    name = file.parent.resolve().name
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: has no config.json; name a Hugging Face model directory"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds no JSON object")
    return ModelArch.from_hf_config(config, name)


def _resolve_base(spec: str, source: ModelArch | None) -> ModelArch:
    if spec == _SOURCE and source is not None:
        return source
    if _is_preset(spec):
        return preset(spec)
    path = Path(spec).expanduser()
    if path.exists():
        return read_arch(path)
    if path.is_absolute() or spec.startswith((".", "~")) or spec.endswith("/"):
        raise CheckpointError(f"{spec}: no such model directory")
    known = [_SOURCE, *PRESETS] if source is not None else list(PRESETS)
    raise ConfigError(
        f"{spec!r} is neither a preset nor a model directory{nearest(spec.lower(), known)}; "
        f"presets: {', '.join(sorted(PRESETS))}"
    )


def _is_preset(spec: str) -> bool:
    return spec.lower().replace("_", "-") in PRESETS


def _changed(base: ModelArch, changes: str, spec: str) -> ModelArch:
    kinds = {name: kind for name, kind in get_type_hints(ModelArch).items() if name != "name"}
    values = {}
    for change in changes.split(","):
        field, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{spec}: {change!r} is not of the form field=value")
        if field not in kinds:
            raise ConfigError(
                f"{spec}: no field {field!r}{nearest(field, kinds)}; fields: {', '.join(kinds)}"
            )
        values[field] = parse_value(kinds[field], text, f"{spec}: {field}")
    return base.replace(name=spec, **values)
