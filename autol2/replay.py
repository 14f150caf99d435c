"""Replay a recorded run: what would a controller have done with these measurements?

    python -m autol2.replay trace=FILE method=combined alpha=5 protocol=published

reads a trace (the measurements.csv of a run, or another CSV or CSV.gz file with the same columns),
shows each change of λ, and says whether the recorded λ agrees. It is also a function:

    from autol2 import Rule, replay
    for step in replay(Rule("combined", alpha=5), "measurements.csv"):
        if step.decision.event != "none":
            print(step.epoch, step.step, step.decision)
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from .cli.command import command
from .config import RuleConfig, as_schema, parse_as
from .errors import UserError
from .rules.controller import Controller, Decision
from .rules.method import LambdaPolicy
from .rules.rule import Rule
from .runs.state import read_state
from .storage.files import write_named

COLUMNS = ("epoch", "step", "lambda", "train_loss", "train_accuracy")
"""The columns that a trace must have; other columns are ignored."""
TOLERANCE = 1e-9
"""Maximum relative difference at which two values of λ count as equal."""


@dataclass(frozen=True)
class Measurement:
    """One row of a trace."""

    epoch: int
    """The epoch, counted from 0."""
    step: int
    """The step within the epoch, counted from 1."""
    recorded_lambda: float
    """The λ at which the step was measured; with ``original``, its update may use the next one."""
    loss: float
    """Mean training loss of the batch, without the penalty."""
    accuracy: float
    """Training accuracy on the batch, in percent."""


@dataclass(frozen=True)
class Replayed(Measurement):
    """One row of a trace, with the λ and the decision of the controller."""

    lambda_: float
    """The λ of the controller at this measurement."""
    decision: Decision
    """What the controller decided from this measurement."""

    @property
    def agrees(self) -> bool:
        """Whether the recorded λ equals that of the controller."""
        return math.isclose(self.lambda_, self.recorded_lambda, rel_tol=TOLERANCE)


@dataclass
class ReplayConfig(RuleConfig):
    """The options of the command."""

    trace: str = ""
    """File with the recorded measurements, as CSV or CSV.gz."""
    out: str | None = None
    """File to write the controller's λ to (epoch, step, lambda); null for none."""
    steps_per_epoch: int | None = None
    """Steps per epoch, for protocols whose clock does not restart at each epoch; see `replay`."""

    def __post_init__(self) -> None:
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UserError(f"steps_per_epoch must be at least 1, not {self.steps_per_epoch}")


def replay(
    rule: Rule | LambdaPolicy, trace: str | Path, steps_per_epoch: int | None = None
) -> Iterator[Replayed]:
    """Run a controller over a recorded trace.

    Args:
        rule: the rule of the controller, or a policy of your own that uses measurements.
        trace: a CSV or CSV.gz file with the columns in `COLUMNS`.
        steps_per_epoch: the number of steps per epoch, needed for the protocols whose clock runs
            over the whole run. The default is the number in the run.json beside the trace; if
            there is none, it is the largest step that was measured in any epoch.

    Yields:
        Each row of the trace, with the λ and the decision of the controller.

    Raises:
        UserError: if the file is missing or not a trace, or if an epoch of the trace has more than
            `steps_per_epoch` steps.
    """
    measurements = read_trace(Path(trace))
    last = max(sample.step for sample in measurements)
    length = steps_per_epoch if steps_per_epoch is not None else _known_length(Path(trace)) or last
    if length < last:
        raise UserError(f"steps_per_epoch={length} is too few: trace={trace} has step {last}")
    policy = Controller(rule) if isinstance(rule, Rule) else rule
    for measurement in measurements:
        step = measurement.epoch * length + measurement.step
        lambda_ = policy.lambda_at(step)
        decision = policy.measure(measurement.loss, measurement.accuracy, step, measurement.step)
        yield Replayed(**vars(measurement), lambda_=lambda_, decision=decision)


def read_trace(path: Path) -> list[Measurement]:
    """Read the measurements in a CSV or CSV.gz file.

    Raises:
        UserError: if the file is missing or not a trace.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=None))
        numbered = [(rows.line_num, row) for row in rows if row]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"trace={path} cannot be read: {_reason(error)}") from error
    header = numbered[0][1] if numbered else []
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise UserError(
            f"trace={path} has no column {', '.join(missing)}; a trace has {', '.join(COLUMNS)}"
        )
    places = [header.index(column) for column in COLUMNS]
    measurements: list[Measurement] = []
    for line, row in numbered[1:]:
        try:
            epoch, step, *values = (row[place] for place in places)
            one = Measurement(int(epoch), int(step), *map(float, values))
        except (IndexError, ValueError):
            raise UserError(
                f"trace={path}, line {line}: {','.join(row)[:80]!r} is not a row of numbers "
                f"under {', '.join(COLUMNS)}"
            ) from None
        if one.step < 1 or one.epoch < 0 or not math.isfinite(one.recorded_lambda):
            raise UserError(
                f"trace={path}, line {line}: {','.join(row)[:80]!r} is not a measurement: epochs "
                f"count from 0, steps count from 1, and lambda is a number"
            )
        before = measurements[-1] if measurements else one
        if one is not before and (one.epoch, one.step) <= (before.epoch, before.step):
            raise UserError(
                f"trace={path}, line {line}: its steps do not increase: epoch {one.epoch}, step "
                f"{one.step} comes after epoch {before.epoch}, step {before.step}"
            )
        measurements.append(one)
    if not measurements:
        raise UserError(f"trace={path} contains no measurements")
    return measurements


def _known_length(trace: Path) -> int | None:
    """Return the steps per epoch from the run.json beside the trace; None if it has none."""
    known = read_state(trace.parent).get("steps_per_epoch")
    return known if isinstance(known, int) else None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@command("replay")
def main(cfg: DictConfig) -> int:
    """Replay the trace; return 0 if the recorded λ agrees at every measurement, and 1 if not."""
    config = parse_as(ReplayConfig, cfg)
    if not config.trace:
        raise UserError(
            "no trace was given; for example: python -m autol2.replay trace=FILE method=combined "
            "alpha=5"
        )
    trace, out = Path(config.trace), None if config.out is None else Path(config.out)
    if out is not None and os.path.realpath(out) == os.path.realpath(trace):
        raise UserError(f"out={out} is the input file itself: choose another file")
    rule = _rule(config)
    steps = list(replay(rule, trace, config.steps_per_epoch))
    console = Console(highlight=False, soft_wrap=True)
    _show_changes(console, steps)
    if out is not None:
        _write(out, steps)
    through = not isinstance(rule, Rule) or (
        rule.method != "fixed" and rule.protocol != "published"
    )
    if through and config.steps_per_epoch is None and _known_length(trace) is None:
        console.print(
            f"assuming {max(step.step for step in steps)} steps per epoch, the last one measured; "
            f"set steps_per_epoch=N if there are more"
        )
    agreeing = sum(step.agrees for step in steps)
    console.print(f"agrees with the recorded lambda: {agreeing}/{len(steps)} measurements")
    first = next((step for step in steps if not step.agrees), None)
    if first is None:
        return 0
    console.print(
        f"first difference: epoch {first.epoch}, step {first.step}: "
        f"recorded {first.recorded_lambda:g}, {config.method.name} has {first.lambda_:g}"
    )
    return 1


def _rule(config: RuleConfig) -> Rule | LambdaPolicy:
    """Return the rule of a method of the paper, or the policy of another that uses measurements."""
    try:
        return config.rule()
    except UserError:
        if config.method.own_lambda:
            raise
        policy = config.method.policy(config.circumstances())
        if not policy.measures:
            raise
        return policy


def _show_changes(console: Console, steps: list[Replayed]) -> None:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("epoch", "step"):
        table.add_column(heading, justify="right")
    for heading in ("λ", "event", "reason"):
        table.add_column(heading, no_wrap=heading != "reason")
    for step in steps:
        decision = step.decision
        if decision.event != "none":
            change = f"{step.lambda_:g} → {decision.lambda_:g}"
            table.add_row(str(step.epoch), str(step.step), change, decision.event, decision.reason)
    if table.row_count:
        console.print(table)
    else:
        console.print("λ never changes")


def _write(path: Path, steps: list[Replayed]) -> None:
    lines = ["epoch,step,lambda", *(f"{step.epoch},{step.step},{step.lambda_}" for step in steps)]
    try:
        write_named(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise UserError(f"out={path} cannot be written: {os.strerror(error.errno or 0)}") from error


ConfigStore.instance().store(name="replay_schema", node=as_schema(ReplayConfig))

if __name__ == "__main__":
    main()
