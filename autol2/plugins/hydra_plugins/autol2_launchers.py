"""The launchers, under the only package name whose plugins Hydra takes."""

from autol2.launch_local import LocalLauncher
from autol2.launch_slurm import SlurmLauncher


class SubmititLocal(LocalLauncher):
    """``hydra/launcher=submitit_local``."""


class SubmititSlurm(SlurmLauncher):
    """``hydra/launcher=submitit_slurm``."""
