"""The launchers, under the only package name whose plugins Hydra takes."""

from autol2.launch import LocalLauncher, SlurmLauncher


class SubmititLocal(LocalLauncher):
    """``hydra/launcher=submitit_local``."""


class SubmititSlurm(SlurmLauncher):
    """``hydra/launcher=submitit_slurm``."""
