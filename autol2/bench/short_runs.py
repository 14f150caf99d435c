"""Short runs: what a sweep of them costs over what they train for."""

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
"""A run of about a second."""


@dataclass(frozen=True)
class ShortRuns:
    """Short runs, one after the other."""

    runs: int
    sweep: float
    """Time of a sweep of them over what they are busy training, evaluating and saving."""
    commands: float
    """The same where each is a command of its own."""


def measure_short(runs: int, commands: int, device: str) -> ShortRuns:
    """Do `runs` runs as one sweep, and `commands` of them by a command each.

    Raises:
        UserError: a run failed; its own message comes with it.
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
