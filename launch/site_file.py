"""The user's own file of sites, read and checked.

It is TOML and holds one table a site, each of one `kind`; ``bielik launch init`` writes one to
start from. ``[cluster.stages.evaluate]`` changes a site for the jobs of one stage.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_bielik.commands import COMMANDS
from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.launch.lepton_site import LeptonSite
from nemo_bielik.launch.settings_file import read_table, read_toml
from nemo_bielik.launch.site import LocalSite, NemoRunSite, Site
from nemo_bielik.launch.slurm_site import SlurmSite

#: Looked at in this order; the first that exists is the site file.
LOCAL_FILE = Path("bielik_site.toml")
USER_FILE = Path("~/.config/bielik/site.toml")
#: What a stage's own table may not change: where all jobs of a site are submitted and found.
_WHOLE_SITE = ("kind", "job_directory", "root", "ssh", "stages")
_STAGES = sorted({command.stage.split()[0] for command in COMMANDS if command.can_be_launched})
KINDS: dict[str, type[Site]] = {
    "local": LocalSite,
    "slurm": SlurmSite,
    "lepton": LeptonSite,
    "nemo_run": NemoRunSite,
}


def site_file(given: Path | None = None) -> Path | None:
    """Return the site file: `given`, ./bielik_site.toml, or the user's own; None if there is none.

    Raises `ConfigError` if `given` does not exist.
    """
    if given is not None and not given.is_file():
        raise ConfigError(f"--site: {given} does not exist; `bielik launch init` writes one")
    places = [given] if given else [LOCAL_FILE, USER_FILE.expanduser()]
    return next((place for place in places if place.is_file()), None)


def load_sites(path: Path | None = None) -> dict[str, Site]:
    """Return every site of the site file by name; ``local`` is always among them.

    Raises `ConfigError` for a file, a table or a value that does not say what it must.
    """
    found = site_file(path)
    tables = read_toml(found) if found else {}
    sites: dict[str, Site] = {"local": LocalSite()}
    for name, table in tables.items():
        where = f"{found}: [{name}]"
        if not isinstance(table, dict):
            raise ConfigError(f"{found}: {name} stands outside of a site's table; put it in [NAME]")
        kind = table.get("kind")
        if kind not in KINDS:
            hint = nearest(str(kind), KINDS) if kind else ""
            raise ConfigError(
                f"{where}: kind is {kind!r}{hint}; it must be one of {', '.join(KINDS)}"
            )
        sites[name] = _read_site(KINDS[kind], table, where)
    return sites


def _read_site(kind: type[Site], table: dict[str, Any], where: str) -> Site:
    common = {key: value for key, value in table.items() if key != "stages"}
    site: Site = read_table(kind, common, where)
    stages = table.get("stages", {})
    if not isinstance(stages, dict) or not all(isinstance(part, dict) for part in stages.values()):
        raise ConfigError(f"{where}: stages must hold a table a stage, such as stages.evaluate")
    for stage, changes in stages.items():
        place = f"{where}: stages.{stage}"
        if stage not in _STAGES:
            raise ConfigError(
                f"{place}: there is no stage {stage!r}{nearest(stage, _STAGES)}; known are "
                f"{', '.join(_STAGES)}"
            )
        for key in changes:
            _require_of_a_stage(key, place)
        site.stages[stage] = read_table(kind, _merged(common, changes), place)
    return site


def _require_of_a_stage(setting: str, where: str) -> None:
    if setting in _WHOLE_SITE:
        raise ConfigError(f"{where}: {setting} holds for all stages; set it outside of them")


def _merged(common: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: {**common[key], **value}
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(common.get(key), dict)
    }
    return common | changes | both


def find_site(name: str, path: Path | None = None, changes: Sequence[str] = ()) -> Site:
    """Return the site `name`, changed by ``setting=value`` and ``stage.setting=value`` strings.

    Raises `ConfigError` for an unknown site, with the nearest one.
    """
    from nemo_bielik.options import apply_overrides

    sites = load_sites(path)
    if name not in sites:
        place = site_file(path) or "no site file; `bielik launch init` writes one"
        raise ConfigError(
            f"--executor: unknown site {name!r}{nearest(name, sites)}; known are "
            f"{', '.join(sites)} ({place})"
        )
    of_all = [change for change in changes if change.partition(".")[0] not in _STAGES]
    where = f"executor {name}"
    site: Site = apply_overrides(replace(sites[name], stages={}), of_all, where)
    stages: dict[str, Site] = {
        stage: apply_overrides(own, of_all, where) for stage, own in sites[name].stages.items()
    }
    for change in changes:
        if change not in of_all:
            stage, _, setting = change.partition(".")
            _require_of_a_stage(re.split("[.=]", setting)[0], f"{where}, {stage}")
            own = stages.get(stage, site)
            stages[stage] = apply_overrides(own, [setting], f"{where}, {stage}")
    return replace(site, stages=stages)


def nemo_run_home(site: Site) -> Path:
    """Return where NeMo-Run keeps its experiments for `site`, on the machine that submits.

    A local job runs where its script was written, and so does a Slurm job from the login node; over
    SSH and on Lepton the folder is copied there, and the original stays with the user.
    """
    if isinstance(site, LocalSite) or (isinstance(site, SlurmSite) and site.ssh is None):
        return site.job_directory.expanduser().absolute()
    return Path(os.environ.get("NEMORUN_HOME", "~/.nemo_run")).expanduser().absolute()
