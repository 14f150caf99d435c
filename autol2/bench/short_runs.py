"""Measures the overhead of short runs, in a sweep and as separate commands."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

RUN = (
    *("method=auto_l2", "protocol=corrected", "data=digits", "batchnorm=on"),
    *("model.width=8", "model.hidden=32", "batch_size=32", "epochs=4", "lr=0.1", "threads=1"),
)
"""The overrides of a run that takes about a second."""


@dataclass(frozen=True)
class ShortRuns:
    """The cost of short runs that are done one after the other."""

    runs: int
    """The number of runs in the sweep."""
    sweep: float
    """The time of the sweep divided by the time its runs spend training, evaluating and saving."""
    commands: float
    """The same ratio if each run is a separate command."""


def measure_short(runs: int, commands: int, device: str) -> ShortRuns:
    """Measure the cost of `runs` runs as one sweep, and of `commands` runs as separate commands.

    Raises:
        UserError: if a run failed; the message includes the output of the run.
    """
    seeds = ",".join(map(str, range(runs)))
    sweep = _cost(device, "-m", f"seed={seeds}", "hydra.launcher.n_jobs=1")
    alone = [_cost(device, f"seed={seed}") for seed in range(commands)]
    return ShortRuns(runs, sweep, sum(alone) / commands)


def _cost(device: str, *words: str) -> float:
    with tempfile.TemporaryDirectory(prefix="autol2-bench-") as folder:
        options = [*RUN, f"device={device}", f"outputs={folder}"]
        command = [sys.executable, "-m", "autol2.train", *words, *options]
        before = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - before
        if done.returncode != 0:
            raise UserError(f"a short run failed:\n{done.stdout}{done.stderr}")
        states = [json.loads(path.read_text()) for path in Path(folder).glob("*/*/run.json")]
    trained: float = sum(state["attempts"][0]["seconds"] for state in states)
    return seconds / trained
