"""The launchers and sweepers, under the only package name whose plugins Hydra takes."""

from autol2.sweeps.grid import GridSweeper
from autol2.sweeps.local_launcher import LocalLauncher
from autol2.sweeps.search import SearchSweeper
from autol2.sweeps.slurm_launcher import SlurmLauncher


class SubmititLocal(LocalLauncher):
    """``hydra/launcher=submitit_local``."""


class SubmititSlurm(SlurmLauncher):
    """``hydra/launcher=submitit_slurm``."""


class Grid(GridSweeper):
    """``hydra/sweeper=grid``."""


class Search(SearchSweeper):
    """``hydra/sweeper=search``."""
