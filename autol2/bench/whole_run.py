"""Measures where the time of a whole run goes and how much memory it needs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import Config
from ..data import dataset as data
from ..errors import UserError
from ..runs.records import Records

ROWS = 10_000
"""The number of rows to write, approximately, when the writing of records is timed."""


@dataclass(frozen=True)
class WholeRun:
    """The time and memory of a run of ``python -m autol2.train``."""

    command: list[str]
    """The command that was run."""
    seconds: float
    """Seconds from the start to the exit of the process."""
    seconds_of: dict[str, float]
    """The seconds spent on each part, which add up to `seconds`.

    The parts are ``start_up`` (interpreter, imports, configuration, network), ``data``, ``steps``,
    ``evaluation``, ``records`` and ``checkpoint``.
    """
    shares: dict[str, float]
    """The share of each part in `seconds`."""
    steps: int
    """The number of optimizer steps."""
    peak_bytes: int
    """(e) Peak resident memory in bytes."""


def measure_whole(config: Config) -> WholeRun:
    """Measure the run that `config` describes, in a separate process.

    Raises:
        UserError: if the run failed; the message includes the output of the run.
    """
    data.load(config.data)  # Load once before timing, so that imports do not count.
    before = time.perf_counter()
    data.load(config.data)
    loading = time.perf_counter() - before
    with tempfile.TemporaryDirectory(prefix="autol2-bench-") as folder:
        command = [sys.executable, "-m", "autol2.train", *_overrides(config), f"outputs={folder}"]
        before = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - before
        if done.returncode != 0:
            raise UserError(f"the whole run failed:\n{done.stdout}{done.stderr}")
        (path,) = Path(folder).glob("*/*/run.json")
        attempt = json.loads(path.read_text(encoding="utf-8"))["attempts"][0]
        records = 0.0
        for name in ("measurements.csv", "epochs.csv"):
            records += _seconds_writing(path.with_name(name))
    evaluation, checkpoint = attempt["seconds_evaluating"], attempt["seconds_saving"]
    seconds_of = {
        "start_up": seconds - attempt["seconds"] - loading,
        "data": loading,
        "steps": attempt["seconds"] - evaluation - checkpoint - records,
        "evaluation": evaluation,
        "records": records,
        "checkpoint": checkpoint,
    }
    return WholeRun(
        command=["python", *command[1:-1]],
        seconds=seconds,
        seconds_of=seconds_of,
        shares={name: taken / seconds for name, taken in seconds_of.items()},
        steps=attempt["to_step"],
        peak_bytes=attempt["peak_memory_bytes"],
    )


def _overrides(config: Config) -> list[str]:
    options = {
        "method": config.method.name,
        "batchnorm": "on" if config.batchnorm.enabled else "off",
        "precision": config.precision.name,
        "data": config.data.source,
        "model": config.model.name,
        **{f"model.{name}": value for name, value in asdict(config.model).items()},
        "batch_size": config.batch_size,
        "evaluation.batch_size": config.evaluation.batch_size,
        "epochs": config.epochs,
        "device": config.device,
        "threads": config.threads,
        "cpu_kernels": config.cpu_kernels,
    }
    if config.data.root is not None:
        options["data.root"] = json.dumps(str(config.data.root), ensure_ascii=False)
    return [f"{name}={value}" for name, value in options.items()]


def _seconds_writing(path: Path) -> float:
    """Measure the seconds that writing the records in `path` takes."""
    header, *rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
    records = Records(path.with_suffix(".again"), header)
    before = time.perf_counter()
    for _ in range(repeats := max(1, ROWS // max(1, len(rows)))):
        for row in rows:
            records.append(row)
        records.flush()
    taken = time.perf_counter() - before
    records.close()
    return taken / repeats
