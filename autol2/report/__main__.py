"""Report on a study: ``python -m autol2.report study=paper``, by default the newest one.

Writes ``runs.csv``, ``summary.csv``, the figures and ``index.html`` to the study's ``report/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from ..cli.command import command
from ..config import parse_as, study_name
from ..errors import UserError
from ..runs.files import write_atomically
from ..sweeps.manifest import read_manifest
from ..sweeps.study import Record, find, records
from . import figures, page, plot
from .beside import Beside, beside_published
from .published import published
from .runs import Curves, curves
from .tables import Tables, tables

WHOLE = ("seed", "diverged_step", "attempts", "threads", "seeds_needed")
"""Columns of whole numbers, of which some may be missing."""
CIFAR10 = {"train": 50_000, "test": 10_000, "classes": 10}
"""The published runs' data, however it came here."""


@dataclass
class ReportConfig:
    """The options of the command."""

    study: str | None = None
    """The study; the one that was worked on last if none is named."""
    outputs: str = "outputs"
    """Where studies are kept."""

    def __post_init__(self) -> None:
        if self.study is not None:
            study_name(self.study)


@command("report")
def main(cfg: DictConfig) -> None:
    """The Hydra entry point."""
    config = parse_as(ReportConfig, cfg)
    try:
        study = find(Path(config.outputs), config.study)
    except OSError as error:
        raise UserError(f"{config.outputs} cannot be read: {error.strerror or error}") from error
    console = Console(highlight=False, soft_wrap=True)
    path, verdict = report(study, console)
    for sentence in verdict[: page.SHORT]:
        console.print(sentence, markup=False)
    if len(verdict) > page.SHORT:
        console.print(f"… and {len(verdict) - page.SHORT} more in the report")
    console.print(f"report: {path}", markup=False)


def report(study: Path, console: Console) -> tuple[Path, list[str]]:
    """Write the report on the study in folder `study`; the page's path and the verdict.

    Raises:
        UserError: the folder holds no runs, or cannot be written.
    """
    try:
        found = records(study)
    except OSError as error:
        raise UserError(f"{study} cannot be read: {error.strerror or error}") from error
    if not found:
        raise UserError(f"{study} holds no runs")
    folder = study / "report"
    try:
        folder.mkdir(exist_ok=True)
        read = _read(found, folder / ".cache", console)
        made = tables(read)
        _write_csv(made.runs, folder / "runs.csv")
        _write_csv(made.summary, folder / "summary.csv")
        with console.status("drawing") as status:
            drawings = _draw(read, made, folder, lambda name: status.update(f"drawing {name}"))
        _remove_others(folder, drawings)
        beside = Beside()
        if _on_cifar10(read):
            beside = beside_published(made.runs, [record for record, _ in read])
        missing = sorted(set(read_manifest(study)) - {record.run_id for record in found})
        verdict = page.write(folder / "index.html", study.name, made, beside, drawings, missing)
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
    lengths = [record.state.get("steps_per_epoch") or 1 for record, _ in read]
    marks = published() if _on_cifar10(read) else published()[:0]
    return figures.all_figures(
        made.runs,
        {record.run_id: history for record, history in read},
        made.axes,
        max(lengths, default=1),
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
    """Whether the published figures mean anything beside these runs'."""
    sizes = [record.state.get("data") or {} for record, _ in read]
    return any({**size, **CIFAR10} == size for size in sizes)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    whole = [name for name in WHOLE if name in frame]
    frame = frame.astype(dict.fromkeys(whole, "Int64"))
    write_atomically(path, frame.to_csv(index=False).encode())


ConfigStore.instance().store(name="report_schema", node=ReportConfig)

if __name__ == "__main__":
    main()
