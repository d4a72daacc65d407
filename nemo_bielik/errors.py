"""What can go wrong by a user's doing, said in one line.

Every message says what is wrong, where, what is allowed and how to mend it. The command line
prints it as ``error: …`` and exits with status 2; a traceback is reserved for our own mistakes.
"""

import difflib
from collections.abc import Iterable


class BielikError(Exception):
    """The root of every error that a user can mend."""


class ConfigError(BielikError):
    """A setting that is unknown, out of range or at odds with another one."""


class CheckpointError(BielikError):
    """A model directory that is missing, damaged, unsupported or does not fit its partner."""


class DataError(BielikError):
    """Text, tokens or an artifact that cannot be read or does not belong to this model."""


class StorageError(BielikError):
    """An output place that is taken, full or not writable."""


class ServerError(BielikError):
    """A server that cannot be started or reached, dies, or answers out of form."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to `name`, or ``""``."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
