"""The launchers, under the only package name whose plugins Hydra takes."""

from autol2.sweeps.local_launcher import LocalLauncher
from autol2.sweeps.slurm_launcher import SlurmLauncher


class SubmititLocal(LocalLauncher):
    """``hydra/launcher=submitit_local``."""


class SubmititSlurm(SlurmLauncher):
    """``hydra/launcher=submitit_slurm``."""
