"""The words of a command line that say where and how a stage runs, apart from its own settings."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.errors import ConfigError

#: Words such as ``executor.time=04:00:00`` change the chosen site for this once.
_SITE_PREFIX = "executor."


@dataclass(kw_only=True)
class LaunchWords:
    """What was asked of launching; empty where nothing was."""

    executor: str = ""
    site: Path | None = None
    factory: str = ""
    job_name: str = ""
    site_changes: list[str] = field(default_factory=list)


def take_launch_words(words: list[str], command: str) -> LaunchWords:
    """Remove ``--executor``, ``--site``, ``--factory``, ``--job-name`` and ``executor.…=`` words.

    Raises `ConfigError` for an option without its value, or one that needs ``--executor``.
    """
    site = _take(words, "--site", command)
    found = LaunchWords(
        executor=_take(words, "--executor", command),
        site=Path(site).expanduser() if site else None,
        factory=_take(words, "--factory", command),
        job_name=_take(words, "--job-name", command),
    )
    prefixed = [word for word in words if word.startswith(_SITE_PREFIX) and "=" in word]
    found.site_changes = [word.removeprefix(_SITE_PREFIX) for word in prefixed]
    words[:] = [word for word in words if word not in prefixed]
    given = {"--site": site, "--job-name": found.job_name, "executor.…": found.site_changes}
    if not found.executor and any(given.values()):
        needless = ", ".join(name for name, value in given.items() if value)
        raise ConfigError(f"{command}: {needless} needs --executor, which says where to run")
    return found


def _take(words: list[str], option: str, command: str) -> str:
    """Remove `option` and its value (``--x value`` or ``--x=value``) and return the value."""
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            del words[place]
            return word.partition("=")[2]
        if word == option:
            if place + 1 == len(words) or words[place + 1].startswith("-"):
                raise ConfigError(f"{command}: {option} needs a value")
            value = words[place + 1]
            del words[place : place + 2]
            return value
    return ""
