"""Records a run of the user's own training loop: `record`.

It writes the two CSV files that `recorded` describes. This module does not need PyTorch.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import pandas as pd

from ..config import study_name
from ..errors import UserError, require
from ..runs.identity import digest
from ..storage.files import write_atomically
from ..storage.lock import locked
from .recorded import EPOCHS, FACTS, OF_DATA, RUNS, STATUSES, checked, rows_of
from .runs import MORE


class Recording:
    """A run that is being recorded; see `record`."""

    def __init__(self, folder: Path, run: str, row: Mapping[str, object], resume: bool) -> None:
        self.folder, self.run, self.row = folder, run, dict(row)
        self._began, self._before = time.monotonic(), 0.0
        self._resumed = resume
        with self._locked():
            known = rows_of(folder / RUNS)
            if resume and "seconds" in known:
                mine = pd.to_numeric(known.loc[known["run"] == run, "seconds"], errors="coerce")
                self._before = float(mine.fillna(0).max()) if len(mine) else 0.0
            if not resume and (folder / EPOCHS).exists():
                _write(folder / EPOCHS, _without(rows_of(folder / EPOCHS), run))
            self._note("running")

    def epoch(self, epoch: float, *, test_accuracy: float, **figures: float) -> None:
        """Add an evaluation; it replaces an earlier one at the same epoch.

        Args:
            epoch: the number of completed epochs, which is 1 at the end of the first epoch.
                Fractions are allowed.
            test_accuracy: the test accuracy in percent.
            figures: other values, such as ``lambda_``, ``train_loss``, ``test_loss``,
                ``train_accuracy``, ``validation_loss`` and ``validation_accuracy``.

        Raises:
            UserError: if the name of a value is unknown, the epoch or an accuracy is out of range,
                or the test accuracy is NaN.
        """
        row = {name.rstrip("_"): float(value) for name, value in figures.items()}
        require(
            not math.isnan(test_accuracy),
            "test_accuracy is not a number: if the loss is not finite, end the run with "
            'run.end("diverged")',
        )
        unknown = sorted(set(row) - set(MORE))
        require(
            not unknown,
            f"epoch() does not take {', '.join(unknown)}: choose from {', '.join(MORE)}",
        )
        epoch = float(epoch)
        require(
            0 < epoch < math.inf,
            f"epoch must be the number of completed epochs, above 0, not {epoch:g}",
        )
        accuracies = {"test_accuracy": float(test_accuracy), **row}
        for name, value in accuracies.items():
            require(
                not name.endswith("accuracy") or math.isnan(value) or 0 <= value <= 100,
                f"{name} must be a percentage from 0 to 100, not {value:g}",
            )
        with self._locked():
            path = self.folder / EPOCHS
            if self._resumed:  # Evaluations after the checkpoint are no longer valid.
                self._resumed = False
                known = rows_of(path)
                if len(known):
                    before = pd.to_numeric(known["epoch"], errors="coerce") < epoch
                    _write(path, known[(known["run"] != self.run) | before].astype(object))
            done = int(epoch) if epoch.is_integer() else epoch
            _append(path, {"run": self.run, "epoch": done, **accuracies})

    def end(self, status: str = "completed") -> None:
        """Record how the run ended.

        Args:
            status: ``completed``, ``diverged``, ``failed`` or ``interrupted``.

        Raises:
            UserError: if the status is unknown.
        """
        require(status in STATUSES, f"status={status} is not one of {', '.join(STATUSES)}")
        with self._locked():
            self._note(status)

    def _note(self, status: str) -> None:
        seconds = round(self._before + time.monotonic() - self._began, 3)
        row = {"run": self.run, **self.row, "status": status, "seconds": seconds}
        known = _without(rows_of(self.folder / RUNS), self.run)
        _write(self.folder / RUNS, pd.concat([known, pd.DataFrame([row]).astype(object)]))

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder / ".recording.lock", "records a run")

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopped = kind is not None and not issubclass(kind, Exception)
        try:
            known = rows_of(self.folder / RUNS)
            mine = known[known["run"] == self.run]
            if "status" not in mine or (mine["status"] == "running").all():
                self.end("interrupted" if stopped else "failed" if kind else "completed")
        except (OSError, UserError) as problem:
            if error is None:
                raise
            error.add_note(f"nor could it be noted how the run ended: {problem}")


def record(
    study: str,
    *,
    method: str,
    seed: int,
    fixed_lambda: float | None = None,
    outputs: str | Path = "outputs",
    run: str | None = None,
    resume: bool = False,
    **options: object,
) -> Recording:
    """Start to record a run of your own training loop; use the result in a ``with`` statement.

    Args:
        study: the name of the study that the run belongs to, which is a folder in `outputs`.
        method: the method that decides λ, such as ``"auto_l2"`` or a name of your own.
        seed: the random seed. Runs with the same seed are compared with each other.
        fixed_lambda: λ, if it is constant; the run is then a baseline.
        outputs: the folder in which studies are stored.
        run: the name of the run; by default, it is made from the other arguments.
        resume: whether to continue the existing record of the run instead of starting a new one.
        options: other properties of the run, such as ``batchnorm``, ``alpha``, ``data`` and
            ``lr``. Runs are compared if these are equal, except for those of the method (``alpha``
            and all that begin with ``method_``). ``hardware``, ``threads``, ``torch``, ``python``,
            ``host`` and ``commit`` describe how the run was made and do not affect comparisons.

    Raises:
        UserError: if the name of the study is not valid, its folder cannot be written, or the
            report could not read the run.
    """
    row: dict[str, object] = {"method": method, "fixed_lambda": fixed_lambda, "seed": seed}
    row |= {re.sub("^method_", "method.", name): value for name, value in options.items()}
    checked({name: value for name, value in row.items() if value is not None}, "record()")
    told = {name: value for name, value in row.items() if name not in (*FACTS, *OF_DATA, "seed")}
    words = [method, *([f"{fixed_lambda:g}"] if fixed_lambda is not None else []), f"s{seed}"]
    require(
        run is None or not ("/" in run or run in (".", "..")),
        f"record(): run={run!r} names a folder: leave out the slashes",
    )
    name = run or "-".join([*words, digest({key: str(value) for key, value in told.items()})])
    folder = Path(outputs) / study_name(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Recording(folder, name, row, resume)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error


def _without(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    return frame[frame["run"] != run].astype(object)


def _write(path: Path, frame: pd.DataFrame) -> None:
    write_atomically(path, frame.to_csv(index=False).encode())


def _append(path: Path, row: dict[str, object]) -> None:
    """Append a row to a CSV file, which is rewritten only if the row has a new column."""
    text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    columns = text.partition("\n")[0].split(",")
    if set(row) <= set(columns):
        line = pd.DataFrame([row], columns=columns).to_csv(index=False, header=False)
        with path.open("a", encoding="utf-8") as file:
            file.write(line if text.endswith("\n") else f"\n{line}")
        return
    _write(path, pd.concat([rows_of(path), pd.DataFrame([row]).astype(object)]))
