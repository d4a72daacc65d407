"""This package's own code as an archive, for a job on a machine that does not have it."""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import nemo_run as run
from nemo_run.core.packaging.git import GitArchivePackager

import nemo_bielik


@dataclass(kw_only=True)
class CodePackager(run.Packager):  # type: ignore[misc]
    """Archives the package that validated the settings, installed or a checkout alike.

    NeMo-Run's git packager sends the last commit of whatever repository the user stands in; what
    ran the checks is what should run the job.
    """

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Write ``JOB_DIR/NAME.tar.gz`` with the folder ``nemo_bielik`` in it."""
        archive = os.path.join(job_dir, f"{name}.tar.gz")
        source = Path(nemo_bielik.__file__).parent
        # dereference: recipes and launch are symbolic links in a checkout
        with tarfile.open(archive, "w:gz", dereference=True) as tar:
            tar.add(source, "nemo_bielik", filter=_without_byte_code)
        return archive


@dataclass(kw_only=True)
class SkyPilotPackager(CodePackager, GitArchivePackager):  # type: ignore[misc]
    """The same for SkyPilot's executors, which take only what calls itself NeMo-Run's git packager.

    They ask git for the top of the repository that the user stands in, and there must be one.
    """


def _without_byte_code(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry
