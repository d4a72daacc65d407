"""``nemo bielik STAGE …``: the stages under NeMo-Run's own command, group ``nemo_run.cli``.

NeMo-Run imports this module when its command starts, and takes from its catalogue what has a method
``cli``. Its own entry points would read the settings themselves and store ``tensor=-3`` in silence;
here the words are handed to `bielik`, so both commands mean the same.
"""

import sys
from typing import Any

import catalogue
import typer
from nemo_run.cli.api import ROOT_ENTRYPOINT_NAMESPACE

from nemo_bielik.cli import main
from nemo_bielik.commands import COMMANDS, Command

_NAME = "bielik"


class Stage:
    """One command of `bielik` as NeMo-Run adds it to its own."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.path = f"{_NAME}.{command.name}"  # where NeMo-Run hangs it

    def cli(self, parent: typer.Typer) -> None:
        """Add the command to `parent`; every word after its name is for `bielik`."""
        taken: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}

        @parent.command(
            self.command.name,
            help=self.command.help,
            context_settings={**taken, "help_option_names": []},
        )
        def run(context: typer.Context) -> None:
            sys.exit(main([self.command.name, *context.args]))


def register() -> None:
    """Put every command of one word into NeMo-Run's catalogue."""
    for command in COMMANDS:
        if " " not in command.name:
            place = (ROOT_ENTRYPOINT_NAMESPACE, _NAME, command.name)
            catalogue._set(place, Stage(command))


register()
