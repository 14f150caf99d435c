"""The launchers and sweepers, in the only package name in which Hydra looks for plugins."""

from autol2.sweeps.grid import GridSweeper
from autol2.sweeps.local_launcher import LocalLauncher
from autol2.sweeps.search import SearchSweeper
from autol2.sweeps.slurm_launcher import SlurmLauncher


class SubmititLocal(LocalLauncher):
    """The launcher ``hydra/launcher=submitit_local``."""


class SubmititSlurm(SlurmLauncher):
    """The launcher ``hydra/launcher=submitit_slurm``."""


class Grid(GridSweeper):
    """The sweeper ``hydra/sweeper=grid``."""


class Search(SearchSweeper):
    """The sweeper ``hydra/sweeper=search``."""
