"""The requirements of a sweep's jobs: the launcher's options, and their translation to sbatch."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError, require
from .run_status import RETRIES


@dataclass
class SlurmConf:
    """Options of the launcher for SLURM."""

    _target_: str = "hydra_plugins.autol2_launchers.SubmititSlurm"
    submitit_folder: str | None = None
    """Folder for job scripts and the jobs' output; by default .launch/jobs of the study."""
    timeout_min: int = 240
    """Time limit of a job. It does not limit a run: before it is reached, the job saves and
    requeues itself."""
    cpus_per_task: int | None = 4
    """CPU cores of a job, divided among its runs."""
    gpus_per_node: int | None = None
    """GPUs of a job. Not passed on if you ask for GPUs with `gres` or `gpus_per_task` instead."""
    gpus_per_task: int | None = None
    """sbatch's --gpus-per-task."""
    cpus_per_gpu: int | None = None
    """sbatch's --cpus-per-gpu, instead of `cpus_per_task`."""
    tasks_per_node: int = 1
    """A job is one task: only 1."""
    nodes: int = 1
    """A job is on one node: only 1."""
    mem_gb: int | None = 8
    """GB of memory, sbatch's --mem; 0 for all that the node has."""
    mem_per_gpu: str | None = None
    """sbatch's --mem-per-gpu, instead of `mem_gb`."""
    mem_per_cpu: str | None = None
    """sbatch's --mem-per-cpu, instead of `mem_gb`."""
    name: str = "autol2"
    """Name of the jobs in the queue: sbatch's --job-name."""
    partition: str | None = None
    """sbatch's --partition."""
    qos: str | None = None
    """sbatch's --qos."""
    account: str | None = None
    """sbatch's --account."""
    comment: str | None = None
    """sbatch's --comment."""
    constraint: str | None = None
    """sbatch's --constraint."""
    exclude: str | None = None
    """Nodes not to use: sbatch's --exclude."""
    nodelist: str | None = None
    """Nodes to choose from: sbatch's --nodelist."""
    exclusive: Any = None
    """true to share nodes with no other job, or another value of sbatch's --exclusive."""
    dependency: str | None = None
    """Jobs that must have ended first, as in afterok:4711: sbatch's --dependency."""
    gres: str | None = None
    """Generic resources, as in gpu:1, if the cluster allocates GPUs this way: sbatch's --gres."""
    mail_type: str | None = None
    """When SLURM sends mail, as in END,FAIL: sbatch's --mail-type."""
    mail_user: str | None = None
    """Recipient of the mail: sbatch's --mail-user."""
    wckey: str | None = None
    """sbatch's --wckey."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which a job is told to save."""
    max_num_timeout: int = 1000
    """How often a job may requeue itself at its time limit."""
    array_parallelism: int = 256
    """How many jobs of the sweep may run at the same time."""
    stderr_to_stdout: bool = False
    """Write standard output and standard error of a job to the same file."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the job, as in module load …"""
    use_srun: bool = True
    """Whether srun starts the runs within a job."""
    srun_args: list[str] = field(default_factory=list)
    """Options of srun."""
    additional_parameters: Any = None
    """Any other option of sbatch, as in {reservation: NAME}."""
    runs_per_job: int = 1
    """Number of runs in each job, one after another."""
    side_by_side: int = 1
    """How many of a job's runs execute at the same time on the same GPU."""
    detach: bool = False
    """Return as soon as the runs are submitted."""
    dry_run: bool = False
    """Show what would run, and submit nothing."""
    retry_failed: bool = False
    """Repeat runs that ended with an error."""
    max_retries: int = RETRIES
    """How often to retry a killed run that has made no further progress; SLURM requeues jobs lost
    to a node failure without limit."""


FAMILIES = (
    {"mem_gb": 8, "mem_per_cpu": None, "mem_per_gpu": None, "mem": None},
    {
        "gpus_per_node": 1,
        "gpus_per_task": None,
        "gres": None,
        "gpus": None,
        "gpus_per_socket": None,
    },
    {"cpus_per_task": 4, "cpus_per_gpu": None},
)
"""Options that exclude each other in SLURM, with defaults that give way to another one."""
NAMED = {"job_name": "name", "ntasks_per_node": "tasks_per_node"}
"""Options of sbatch that have another name in this launcher."""
OURS = (
    *("array", "error", "export", "export_file", "no_requeue", "ntasks", "ntasks_per_core"),
    *("ntasks_per_gpu", "ntasks_per_socket", "open_mode", "output", "parsable", "quiet"),
    *("requeue", "signal", "test_only", "time", "wait", "wrap"),
)
"""Options of sbatch that a sweep sets itself."""
SUBMITIT = {"timeout_min": "time", "tasks_per_node": "ntasks_per_node", "name": "job_name"}
"""Options of this launcher that have another name in submitit."""
NOT_SUBMITIT = (
    *("runs_per_job", "side_by_side", "detach", "dry_run", "retry_failed", "max_retries"),
    *("max_num_timeout", "mem_gb", "submitit_folder", "additional_parameters", "_target_"),
)


NOT_SBATCH = (
    *("runs_per_job", "side_by_side", "detach", "dry_run", "retry_failed", "max_retries"),
    *("max_num_timeout", "submitit_folder", "additional_parameters", "_target_", "setup"),
    *("srun_args", "timeout_min", "signal_delay_s", "array_parallelism", "use_srun"),
    *("stderr_to_stdout", "python", "mem_gb"),
)
"""Options of this launcher that sbatch does not have."""
LEAST = {"cpus_per_task": 1, "cpus_per_gpu": 1, "mem_gb": 0, "gpus_per_node": 0, "gpus_per_task": 0}
"""The smallest valid values."""


def check(options: Mapping[str, Any]) -> dict[str, Any]:
    """Validate `options`; those of `additional_parameters` that the launcher has are moved there.

    Raises:
        UserError: the options are invalid.
    """
    found = dict(options)
    found["additional_parameters"] = others = {}
    additional = options["additional_parameters"] or {}
    if not isinstance(additional, Mapping):
        raise UserError(
            "hydra.launcher.additional_parameters must be names with values, as in "
            "'hydra.launcher.additional_parameters={reservation: NAME}'"
        )
    for key, value in additional.items():
        name = _canonical(key)
        if name in OURS:
            instead = {"time": "hydra.launcher.timeout_min", "signal": "signal_delay_s"}.get(name)
            raise UserError(
                f"hydra.launcher.additional_parameters.{key} is set by autol2"
                + (f": use {instead}" if instead else " and cannot be changed")
            )
        require(
            name not in NOT_SBATCH,
            f"hydra.launcher.additional_parameters.{key} is not an option of sbatch: use "
            f"hydra.launcher.{name}",
        )
        require(
            value is None or isinstance(value, str | int | float),
            f"hydra.launcher.additional_parameters.{key} must be one word or number, not {value}: "
            f"several are written in quotes, as in \"{key}: 'n1,n2'\"",
        )
        if name in options:
            found[name] = _number(name, value)
        elif value not in (None, False):
            others[name] = value
    for name in ("nodes", "tasks_per_node"):
        require(
            found[name] in (None, 1, "1", "1-1"),
            f"hydra.launcher.{name}={found[name]}: a run is one process, so a job has one node and "
            f"one task; for distributed training, use AutoL2 in your own loop "
            f"(autol2/integrations/README.md), and for more runs at a time array_parallelism and "
            f"side_by_side",
        )
    for name, least in LEAST.items():
        value = found.get(name)
        whole = isinstance(value, int | float) or re.fullmatch(r"-?\d+", str(value))
        require(
            value is None or not whole or float(value) >= least,
            f"hydra.launcher.{name} must be at least {least}, not {value}",
        )
    for word in found["srun_args"]:
        require(
            not word.startswith(("-n", "-N", "--nodes", "--ntasks")),
            f"hydra.launcher.srun_args: {word} would start a run several times at once",
        )
    limit = 60 * found["timeout_min"]
    require(
        found["signal_delay_s"] < limit,
        f"hydra.launcher.signal_delay_s={found['signal_delay_s']} must be below the time limit of "
        f"{limit} seconds: give the job more time with hydra.launcher.timeout_min",
    )
    require(
        found["signal_delay_s"] <= 65535,
        "hydra.launcher.signal_delay_s must be at most 65535, which is SLURM's limit",
    )
    for name, value in found.items():
        if isinstance(value, str):
            require("\n" not in value, f"hydra.launcher.{name} must be on one line")
    for name, value in others.items():
        one_line = "\n" not in str(value) and isinstance(value, str | int | float)
        require(one_line, f"hydra.launcher.additional_parameters.{name} must be one word or number")
    return found


def _canonical(key: object) -> str:
    """Return this launcher's name for an option of sbatch."""
    name = str(key).lstrip("-").replace("-", "_")
    return NAMED.get(name, name)


def _number(name: str, value: Any) -> Any:
    """Convert a value of sbatch's to the type of the option `name`."""
    try:
        return int(value) if name in ("cpus_per_task", "gpus_per_node", "cpus_per_gpu") else value
    except (TypeError, ValueError):
        raise UserError(f"hydra.launcher.{name} must be a whole number, not {value}") from None


def named(overrides: Collection[str], options: Mapping[str, Any]) -> set[str]:
    """Return the launcher's options that the user has named.

    They come from `overrides` of Hydra's configuration and from the additional parameters in
    `options`.
    """
    words = (word.lstrip("+~").partition("=")[0] for word in overrides)
    others = options["additional_parameters"] or {}
    return {word.removeprefix("hydra.launcher.") for word in words} | set(map(_canonical, others))


def without_rivals(options: Mapping[str, Any], named: Collection[str]) -> dict[str, Any]:
    """Return `options` with only the requested one of each of `FAMILIES`.

    Args:
        options: the result of `check`.
        named: the options that the user named in the command.

    Raises:
        UserError: the user named two options of a family.
    """
    found, additional = dict(options), dict(options["additional_parameters"])
    for family in FAMILIES:
        given = [name for name in family if _given(name, {**additional, **options})]
        chosen = [name for name in given if name in named or name in additional]
        if not chosen:  # those of a config file that differ from the defaults
            chosen = [name for name in given if options.get(name) != family[name]]
        if len(chosen) > 1 and any(name in named or name in additional for name in chosen):
            both = " and ".join(f"hydra.launcher.{name}" for name in chosen)
            raise UserError(f"SLURM takes only one of {both}: leave out the others")
        for name in given if chosen else ():
            if name not in chosen:
                found[name] = None
    return found


def _given(name: str, options: Mapping[str, Any]) -> bool:
    value = options.get(name)
    if name == "gres":  # there are other generic resources than GPUs
        return value is not None and any(part.startswith("gpu") for part in str(value).split(","))
    return value is not None


def cluster(options: Mapping[str, Any]) -> str:
    """Return the cluster of the jobs, if `clusters` or SLURM's variables name one.

    Raises:
        UserError: several clusters are named.
    """
    named = options["additional_parameters"].get("clusters")
    named = named or os.environ.get("SBATCH_CLUSTERS") or os.environ.get("SLURM_CLUSTERS") or ""
    if "," in str(named) or named == "all":
        raise UserError(
            f"the runs cannot go to several clusters ({named}): name one, as in "
            f"'hydra.launcher.additional_parameters={{clusters: NAME}}'"
        )
    return str(named)


def parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of submitit's ``update_parameters`` for `options` without rivals."""
    found = {
        SUBMITIT.get(name, name): value
        for name, value in options.items()
        if value not in (None, []) and value is not False and name not in NOT_SUBMITIT
    }
    found["use_srun"], found["wckey"] = options["use_srun"], options["wckey"]
    if options["mem_gb"] is not None:
        found["mem"] = f"{options['mem_gb']}GB"
    cpus, words = options["cpus_per_task"], options["srun_args"]
    if cpus and not any(word.startswith(("-c", "--cpus-per-task")) for word in words):
        # srun does not inherit the job's cores
        found["srun_args"] = [f"--cpus-per-task={cpus}", *words]
    additional = {"requeue": True, "export": "ALL", **options["additional_parameters"]}
    if where := cluster(options):
        additional["clusters"] = where
    if options["use_srun"]:  # a signal to the job's shell would end the job
        found["setup"] = ["trap : TERM USR2", *options["setup"]]
    else:  # otherwise, only srun's tasks would be signalled
        additional["signal"] = f"B:USR2@{options['signal_delay_s']}"
    found["additional_parameters"] = additional
    return found


def folder_for(path: Path) -> Path:
    """Return `path` if SLURM and submitit can keep a job's files there.

    Raises:
        UserError: they would misinterpret a character of the path.
    """
    strange = [letter for letter in "%\\\"'\n" if letter in str(path)]
    if strange:
        raise UserError(
            f"{path}: SLURM cannot keep a job's files in a folder with {strange[0]!r} in its name; "
            f"choose another with hydra.launcher.submitit_folder=FOLDER"
        )
    return path


def in_words(options: Mapping[str, Any], runs: int) -> str:
    """Describe what would be requested from SLURM for this many runs."""
    jobs = -(-runs // options["runs_per_job"])
    at_once = min(jobs, options["array_parallelism"])
    asked = [
        f"{shown}={options[name]}"
        for name, shown in (
            *(("partition", "partition"), ("account", "account"), ("qos", "qos")),
            *(("gres", "gres"), ("gpus_per_node", "gpus"), ("gpus_per_task", "gpus per task")),
            *(("cpus_per_task", "cores"), ("mem_gb", "GB"), ("mem_per_cpu", "memory per core")),
            *(("mem_per_gpu", "memory per GPU"), ("constraint", "constraint")),
        )
        if options.get(name) is not None
    ]
    minutes = f"{options['timeout_min']} minutes before it requeues itself"
    many = f"{jobs} jobs, {at_once} at a time" if jobs > 1 else "1 job"
    return f"{many}, each with {', '.join(asked)} and {minutes}"
