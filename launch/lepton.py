"""NeMo-Run's Lepton executor without what it fetches from the network when a job starts.

NeMo-Run 0.11.1 (`nemo_run/core/execution/lepton.py`, `launch`) has every job run
``wget -O init.sh https://raw.githubusercontent.com/leptonai/scripts/main/lepton_env_to_pytorch.sh``
and source it: an unpinned script of a foreign branch, as root, with the job's secrets in its
environment. All that a job needs of it are the four variables of `_RANK_VARIABLES`. To be removed
when upstream brings them itself, and takes retries.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nemo_run as run
from leptonai.api.v1.types.affinity import LeptonResourceAffinity
from leptonai.api.v1.types.common import Metadata
from leptonai.api.v1.types.deployment import EnvValue, EnvVar, LeptonContainer, Mount
from leptonai.api.v1.types.job import LeptonJob, LeptonJobUserSpec, ReservationConfig
from leptonai.api.v2.client import APIClient
from nemo_run.run.torchx_backend.schedulers.api import EXECUTOR_MAPPING

_RANK_VARIABLES = """\
prefix="${LEPTON_JOB_SERVICE_PREFIX:-${LEPTON_JOB_NAME:-}}"
export MASTER_ADDR="${prefix}-0.${LEPTON_SUBDOMAIN:-${LEPTON_JOB_NAME:-}-job-svc}"
export MASTER_PORT=29400
export NODE_RANK="${LEPTON_JOB_WORKER_INDEX:-0}"
export NNODES="${LEPTON_JOB_TOTAL_WORKERS:-1}"
"""
_LONGEST_NAME = 34


@dataclass(kw_only=True)
class PinnedLeptonExecutor(run.LeptonExecutor):  # type: ignore[misc]
    """NeMo-Run's, with a start script of our own, and `retries` handed to Lepton."""

    def launch_script(self, cmd: list[str]) -> str:
        """Return what every node of the job runs; `cmd` starts its ranks."""
        before = "".join(f"{line}\n" for line in self.pre_launch_commands)
        return (
            f"set -euo pipefail\n{before}{_RANK_VARIABLES}"
            f"ln -sfn {self.lepton_job_dir}/ /nemo_run\ncd /nemo_run/code\n{' '.join(cmd)}\n"
        )

    def launch(self, name: str, cmd: list[str]) -> tuple[str, str]:
        """Copy the job's files to its storage, create the job and return its id and state."""
        self._validate_mounts()
        Path(self.job_dir, "launch_script.sh").write_text(self.launch_script(cmd), encoding="utf-8")
        self.move_data()
        job = self.create_lepton_job(job_name(self.experiment_id or "", name))
        return job.metadata.id_, self.status(job.metadata.id_)

    def create_lepton_job(self, name: str) -> Any:
        """Create the job in the workspace and return it."""
        client = APIClient()
        group = self._node_group_id(client)
        nodes = sorted(self._valid_node_ids(group, client))
        affinity = LeptonResourceAffinity(
            allowed_dedicated_node_groups=[group.metadata.id_], allowed_nodes_in_node_group=nodes
        )
        spec = self.job_spec()
        spec.affinity = affinity
        return client.job.create(LeptonJob(spec=spec, metadata=Metadata(id=name)))

    def job_spec(self) -> Any:
        """Return what is asked of Lepton, all but the nodes, which only the workspace knows."""
        values = [EnvVar(name=name, value=value) for name, value in self.env_vars.items()]
        secrets = [
            EnvVar(name=name, value_from=EnvValue(secret_name_ref=secret))
            for name, secret in self.secret_vars.items()
        ]
        spec = LeptonJobUserSpec(
            resource_shape=self.resource_shape,
            container=LeptonContainer(
                image=self.container_image,
                command=["/bin/bash", os.path.join(self.lepton_job_dir, "launch_script.sh")],
            ),
            shared_memory_size=self.shared_memory_size,
            completions=self.nodes,
            parallelism=self.nodes,
            # a lost node starts the whole job again: its ranks cannot go on without each other
            max_job_failure_retry=self.retries,
            envs=values + secrets,
            mounts=[Mount(**mount) for mount in self.mounts],
            image_pull_secrets=self.image_pull_secrets,
            ttl_seconds_after_finished=None,
            intra_job_communication=True,
        )
        if self.node_reservation:
            spec.reservation_config = ReservationConfig(reservation_id=self.node_reservation)
        return spec

    def cancel(self, job_id: str) -> None:
        """Stop the job; NeMo-Run's deletes it, and its logs with it."""
        APIClient().job.update(job_id, spec={"spec": {"stopped": True}})


def job_name(experiment: str, task: str) -> str:
    """Return a name that Kubernetes takes and that no other experiment has.

    NeMo-Run's is the task's name alone, so a second distillation would meet the first one's.
    """
    stamp = experiment.rpartition("_")[2][-12:-3]
    kept = "".join(c if c.isalnum() else "-" for c in task.lower())
    return f"{kept[: _LONGEST_NAME - len(stamp) - 1].strip('-')}-{stamp}"


EXECUTOR_MAPPING[PinnedLeptonExecutor] = "lepton"
