"""Report on a study: ``python -m autol2.report study=paper``, by default the newest one.

The command writes ``runs.csv``, ``summary.csv``, ``epochs.csv``, the figures and ``index.html`` to
the folder ``report/`` of the study. It also reads results from your own training loop: see
autol2/report/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from ..cli.command import command
from ..config import parse_as, study_name
from ..errors import UserError, require
from ..sweeps.manifest import read_manifest
from ..sweeps.study import Record, find, records
from . import figures, lambda_figures, page, plot, recorded
from .arms import Question
from .forecast import peaks
from .published import published
from .reproduction import Reproduction, reproduction
from .runs import Curves, curves
from .tables import Tables, tables, write_csv

CIFAR10 = {"train": 50_000, "test": 10_000, "classes": 10}
"""The sizes of the data set of the published runs, which identify it whatever its source."""


@dataclass
class ReportConfig:
    """The options of the command."""

    study: str | None = None
    """Name of the study; by default, the one that was changed last."""
    outputs: str = "outputs"
    """Folder in which studies are stored."""
    target: float | None = None
    """Target test accuracy in percent for measuring training speed; by default half a point below
    the final level of the strongest fixed λ."""
    margin: float | None = None
    """Equivalence margin in points: a schedule is called equivalent to the strongest fixed λ if the
    interval of their difference lies within ± this. Choose it before looking at results."""

    def __post_init__(self) -> None:
        if self.study is not None:
            study_name(self.study)
        if self.target is not None:
            require(
                0 < self.target <= 100,
                f"target must be a test accuracy in percent, above 0 and at most 100, "
                f"not {self.target:g}: try target=72",
            )
        if self.margin is not None:
            require(
                math.isfinite(self.margin) and self.margin > 0,
                f"margin must be above 0 points, not {self.margin:g}: try margin=0.5",
            )


@command("report")
def main(cfg: DictConfig) -> None:
    """Write the report on the study that the configuration names, and print the verdict."""
    config = parse_as(ReportConfig, cfg)
    study = find(Path(config.outputs), config.study)
    console = Console(highlight=False, soft_wrap=True)
    path, verdict = report(study, console, Question(config.target, config.margin))
    for sentence in verdict[: page.SHORT]:
        console.print(sentence, markup=False)
    if len(verdict) > page.SHORT:
        console.print(f"… and {len(verdict) - page.SHORT} more in the report")
    console.print(f"report: {path}", markup=False)


def report(
    study: Path,
    console: Console,
    question: Question = Question(),  # noqa: B008 (it is frozen)
) -> tuple[Path, list[str]]:
    """Write the report on a study.

    Args:
        study: the folder of the study.
        console: the console for progress messages.
        question: the target and the margin, if the user has set them.

    Returns:
        The path of the page, and the sentences of the verdict.

    Raises:
        UserError: if the folder contains no runs, or cannot be read or written.
    """
    try:
        found, own = records(study), recorded.read(study)
    except OSError as error:
        raise UserError(f"{study} cannot be read: {error.strerror or error}") from error
    if not found and not own:
        raise UserError(f"{study} contains no runs")
    folder = study / "report"
    try:
        folder.mkdir(exist_ok=True)
        read = [*_read(found, folder / ".cache", console), *own]
        made = tables(read, question)
        for name in ("runs", "summary", "epochs"):
            write_csv(getattr(made, name), folder / f"{name}.csv")
        with console.status("drawing") as status:
            drawings = _draw(read, made, folder, lambda name: status.update(f"drawing {name}"))
            drawings += lambda_figures.all_figures(peaks(found), folder)
        _remove_others(folder, drawings)
        reproduced = Reproduction()
        if _on_cifar10(read):
            reproduced = reproduction(made.runs, [record for record, _ in read])
        missing = sorted(set(read_manifest(study)) - {record.run_id for record in found})
        verdict = page.write(folder / "index.html", study.name, made, reproduced, drawings, missing)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder / "index.html", verdict


def _read(found: Sequence[Record], cache: Path, console: Console) -> list[tuple[Record, Curves]]:
    reading = curves(found, cache)
    return list(
        track(reading, "reading", len(found), console=console, transient=True)
        if console.is_terminal
        else reading
    )


def _draw(
    read: list[tuple[Record, Curves]], made: Tables, folder: Path, say: figures.Say
) -> list[plot.Drawing]:
    lengths = {record.run_id: record.state.get("steps_per_epoch") or 1 for record, _ in read}
    longest = max(lengths.values(), default=1)
    marks = published() if _on_cifar10(read) else published()[:0]
    return figures.all_figures(
        made,
        {
            record.run_id: history.at_length(lengths[record.run_id], longest)
            for record, history in read
        },
        longest,
        marks,
        folder,
        say,
    )


def _remove_others(folder: Path, drawings: Sequence[plot.Drawing]) -> None:
    """Delete the figures of an earlier report that this one no longer has."""
    for png in set(folder.glob("*.png")) - {drawing.png for drawing in drawings}:
        if png.with_suffix(".svg").exists():
            png.unlink()
            png.with_suffix(".svg").unlink()


def _on_cifar10(read: list[tuple[Record, Curves]]) -> bool:
    """Whether any of the runs used CIFAR-10, so that the published results are comparable."""
    sizes = [record.state.get("data") or {} for record, _ in read]
    return any({**size, **CIFAR10} == size for size in sizes)


ConfigStore.instance().store(name="report_schema", node=ReportConfig)

if __name__ == "__main__":
    main()
