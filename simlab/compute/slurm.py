"""Processes that Slurm's `srun` started, told what torchrun would have told them.

    srun --ntasks=8 --gpus-per-task=1 python -m simlab pretrain --epochs 50

`srun` numbers its tasks in variables of its own; PyTorch reads those of torchrun. Only a step of
several tasks counts: a job's batch script, or a shell in an allocation, knows the job's number of
tasks as well, but is one process.
"""

import os
import re
import warnings
from collections.abc import Mapping

FIRST_PORT = 20_000
PORTS = 10_000


def understand_srun() -> None:
    """Set torchrun's variables from srun's, unless they are set; MASTER_ADDR and _PORT are kept."""
    environment = os.environ
    if "WORLD_SIZE" in environment:  # torchrun's, or the user's
        return
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        os.environ.update(torchrun_variables(environment) | _addresses_of_the_user())
    elif _forgot_srun(environment):
        warnings.warn(
            f"this job has {environment['SLURM_NTASKS']} tasks and simlab runs outside of srun, as "
            "one process: put srun before the command to train with all of them",
            stacklevel=2,
        )


def torchrun_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Say in torchrun's variables what srun's say of a task.

    Args:
        environment: Of the task.

    Returns:
        RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR (the step's first machine) and MASTER_PORT (from
        the numbers of job and step, so that every task finds the same).

    Raises:
        ValueError: A variable that srun sets is missing.
    """
    values = {name: environment.get(name, "") for name in ("SLURM_PROCID", "SLURM_LOCALID")}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    values["SLURM_JOB_NODELIST"] = nodes
    for name, value in values.items():
        if not value:
            raise ValueError(
                f"SLURM_STEP_NUM_TASKS={environment['SLURM_STEP_NUM_TASKS']} without {name}: "
                "expected the variables of a task that srun started"
            )
    job = int(environment.get("SLURM_JOB_ID", 0))
    step = int(environment.get("SLURM_STEP_ID", 0))
    return {
        "RANK": values["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": values["SLURM_LOCALID"],
        "MASTER_ADDR": first_host(nodes),
        "MASTER_PORT": str(FIRST_PORT + (101 * job + step) % PORTS),
    }


def first_host(nodes: str) -> str:
    """Return the first machine of a list as Slurm writes it: node[003-010,12],gpu7 -> node003."""
    host = re.split(r",(?![^\[]*\])", nodes)[0]  # at the commas that are in no brackets
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", host)


def _addresses_of_the_user() -> dict[str, str]:
    return {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ}


def _forgot_srun(environment: Mapping[str, str]) -> bool:
    """Tell whether this is the batch script of a job of several tasks, which is one process."""
    is_step = "SLURM_STEP_ID" in environment or "SLURM_STEP_NUM_TASKS" in environment
    return int(environment.get("SLURM_NTASKS", 1)) > 1 and not is_step
