"""Executors of NeMo-Run that have no site of their own here: found by name, checked, shown.

Docker, DGX Cloud, Kubeflow and SkyPilot. What they cannot do is said before anything is submitted.
"""

import os
from typing import Any

import nemo_run as run
import yaml

from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.launch.packaging import CodePackager, SkyPilotPackager
from nemo_bielik.launch.site import NemoRunSite

_SKYPILOT = (run.SkypilotExecutor, run.SkypilotJobsExecutor)


def make_executor(site: NemoRunSite, sizes: dict[str, Any], launcher: Any) -> Any:
    """Return NeMo-Run's executor for `site`.

    Raises `ConfigError` where it does not take what the site gives, or lacks a package.

    Args:
        sizes: nodes and ranks by the names of fields; those that the class does not have are left.
    """
    kind = executor_class(site)
    known = run_fields(kind)
    given = {name: value for name, value in sizes.items() if name in known}
    given |= site.settings | secret_values(site)
    try:
        return kind(
            **given,
            env_vars=dict(site.environment),
            packager=_packager(site, kind),
            launcher=launcher,
        )
    except Exception as error:  # its own checks, a package or a cluster's settings not here
        reason = str(error) or type(error).__name__
        raise ConfigError(f"{site.executor} cannot be used here: {reason}") from error


def _packager(site: NemoRunSite, kind: Any) -> Any:
    if issubclass(kind, _SKYPILOT):
        return SkyPilotPackager()
    return CodePackager() if site.code == "packaged" else run.Packager()


def executor_class(site: NemoRunSite) -> Any:
    """Return NeMo-Run's class for `site`; an unknown one or field raises `ConfigError`."""
    known = [name for name in dir(run) if name.endswith("Executor") and name != "Executor"]
    if site.executor not in known:
        raise ConfigError(
            f"executor is {site.executor!r}{nearest(site.executor, known)}; "
            f"NeMo-Run has {', '.join(known)}"
        )
    kind = getattr(run, site.executor)
    fields = run_fields(kind)
    for name in (*site.settings, *site.secrets):
        if name not in fields:
            raise ConfigError(
                f"settings: {site.executor} has no field {name!r}{nearest(name, fields)}; "
                f"known are {', '.join(fields)}"
            )
    if kind is run.KubeflowExecutor:
        _check_kubeflow(site)
    return kind


def _check_kubeflow(site: NemoRunSite) -> None:
    """Its pods get a job's scripts on a volume that /nemo_run links to, and no archive of code."""
    if not site.settings.get("workdir_pvc"):
        raise ConfigError(
            "settings.workdir_pvc is missing: KubeflowExecutor hands the job's script over on a "
            "volume; name a claim"
        )
    if site.settings.get("workdir_pvc_path", "/nemo_run") == "/nemo_run":
        raise ConfigError(
            "settings.workdir_pvc_path is /nemo_run, where NeMo-Run links the job's directory to; "
            "mount the volume elsewhere, e.g. at /shared"
        )
    if site.code == "packaged":
        raise ConfigError(
            "code is 'packaged', but KubeflowExecutor sends no archive; set code = 'installed' and "
            "an image that has this package"
        )


def run_fields(kind: Any) -> list[str]:
    """Return the names of the fields that an executor of NeMo-Run takes."""
    return [name for name, field in kind.__dataclass_fields__.items() if field.init]


def secret_values(site: NemoRunSite) -> dict[str, str]:
    """Return the executor's secret fields; raise `ConfigError` for a variable that is not set."""
    for name, variable in site.secrets.items():
        if not os.environ.get(variable):
            raise ConfigError(
                f"secrets.{name}: the environment variable {variable} is not set; export it"
            )
    return {name: os.environ[variable] for name, variable in site.secrets.items()}


class _Lines(yaml.SafeDumper):
    """Writes text of several lines as it is."""


_Lines.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def request_text(dry_run: Any, site: NemoRunSite) -> str:
    """Return what would be sent, as far as it can be shown, with names in the place of secrets."""
    request = dry_run.request
    if hasattr(request, "task"):  # NeMo-Run 0.11.1 asks SkyPilot for a function that it has moved
        text = yaml.dump(request.task.to_yaml_config(), Dumper=_Lines, sort_keys=False)
    elif hasattr(request.executor, "get_job_body"):  # of Kubeflow it shows the command alone
        body = request.executor.get_job_body(request.name, request.cmd)
        text = yaml.safe_dump(body, sort_keys=False)
    else:
        text = str(dry_run)
    for name, value in secret_values(site).items():
        text = text.replace(value, f"<{site.secrets[name]}>")
    return text
