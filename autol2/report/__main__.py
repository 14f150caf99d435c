"""Report on a study: ``python -m autol2.report study=paper``, by default the newest one.

Writes ``runs.csv``, ``summary.csv``, the figures and ``index.html`` to the study's ``report/``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from ..cli import command
from ..config import UserError, parse_as, study_name
from ..files import write_atomically
from ..study import Record, find, records
from . import figures, page
from .runs import Curves, curves
from .tables import Tables, beside_published, published, tables

CIFAR10 = 50_000
"""Training images of the published runs' data."""


@dataclass
class ReportConfig:
    """The knobs of the command."""

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
    study = find(Path(config.outputs), config.study)
    console = Console(highlight=False, soft_wrap=True)
    path, verdict = report(study, console)
    for sentence in verdict:
        console.print(sentence, markup=False)
    console.print(f"report: {path}", markup=False)


def report(study: Path, console: Console) -> tuple[Path, list[str]]:
    """Write the report on the study in folder `study`; the page's path and the verdict.

    Raises:
        UserError: the folder holds no runs, or cannot be written.
    """
    found = records(study)
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
        beside = beside_published(made.runs) if _on_cifar10(found) else pd.DataFrame()
        missing = _missing(study, found)
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
) -> list[figures.Drawing]:
    lengths = [int(record.state.get("steps_per_epoch", 1)) for record, _ in read]
    marks = published()
    if not _on_cifar10([record for record, _ in read]):
        marks = marks[:0]
    return figures.all_figures(
        made.runs,
        {record.run_id: course for record, course in read},
        made.varying,
        max(lengths, default=1),
        marks,
        folder,
        say,
    )


def _on_cifar10(found: Sequence[Record]) -> bool:
    """Whether the published figures mean anything beside these runs'."""
    return any(record.state.get("data", {}).get("train") == CIFAR10 for record in found)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    write_atomically(path, frame.to_csv(index=False).encode())


def _missing(study: Path, found: Sequence[Record]) -> list[str]:
    """Runs that the study's sweeps asked for and that have not begun."""
    try:
        asked = json.loads((study / "study.json").read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError):
        return []
    return sorted(set(asked) - {record.run_id for record in found})


ConfigStore.instance().store(name="report_schema", node=ReportConfig)

if __name__ == "__main__":
    main()
