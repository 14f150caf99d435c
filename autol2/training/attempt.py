"""One attempt at a run: from its first step or newest checkpoint to its end or a signal."""

from __future__ import annotations

import contextlib
import time
import traceback
from typing import Any

import torch

from ..cli.progress import RunProgress, Terminal, duration
from ..config import Config
from ..data.dataset import Dataset
from ..errors import UserError
from ..runs import checkpoint
from ..runs.code import changed_module, own_code
from ..runs.identity import digest, flat
from ..runs.records import Changed
from ..runs.result import result
from ..runs.run import Held, Run
from ..runs.state import summary
from ..trackers.tracker import Mirror, Shown, mirror
from .hardware import environment, out_of_memory, peak_memory
from .signals import StopRequest
from .trainer import Diverged, Trainer

CHECKPOINT_SHARE = 0.01
"""The largest share of the time that checkpoints at the ends of epochs may take."""


def attempt(run: Run, data: Dataset, device: torch.device) -> int:
    """Execute `run` until it ends or a signal asks it to stop, and return the exit status.

    The status is 0 if the run completed or diverged (both are results) and 128 + the signal's
    number if it was interrupted.

    Raises:
        Held: another process is executing the run.
        UserError: its directory cannot be written, or belongs to other data.
    """
    with run.open():
        if run.finished and not run.config.rerun:
            # finished by another process just now
            print(f"{run.folder}: already {summary(run.state)}")
            return 0
        # only with ``rerun=true``
        if run.finished or changed_module(run.state, run.config):
            run.set_aside()
        try:
            one = Attempt(run, Trainer(run.config, data, run.folder, device))
        except (UserError, OSError):
            raise
        except Exception as error:
            memory = memory_line(run.config, data, device) if out_of_memory(error) else ""
            run.begin(from_step=0)
            run.end("failed", type(error).__name__, error=memory or traceback.format_exc())
            if memory:
                raise UserError(memory) from error
            raise
        return one.do()


def memory_line(config: Config, data: Dataset, device: torch.device) -> str:
    """Return a message about what to do when the memory is used up."""
    where = "the GPU" if device.type == "cuda" else "this machine"
    shape = "×".join(map(str, data.train_images.shape[2:]))
    return (
        f"the memory of {where} is used up by batches of {config.batch_size} images of {shape}: "
        f"use a smaller batch_size or evaluation.batch_size, a smaller network (as in "
        f"model.width=64), or precision=bf16"
    )


class Attempt:
    """Executes a run whose directory is open, from its current state."""

    def __init__(self, run: Run, trainer: Trainer) -> None:
        self.run, self.trainer, self.config = run, trainer, run.config
        self.environment = environment(trainer.device)
        if not self._restored():
            trainer.begin()
        self.first = self.saved = trainer.step
        self.progress = RunProgress(trainer.steps, self.first)
        self.mirror: Mirror | None = None
        self.started = self.saved_at = time.monotonic()
        self.spent_evaluating = self.spent_saving = self.last_saving = 0.0

    def do(self) -> int:
        """Train, and record in run.json how the attempt ended."""
        with StopRequest() as stop, self.run.beating():
            self._begin()
            try:
                return self._do(stop)
            finally:
                if self.mirror is not None:
                    self.mirror.close(self.run.state["status"])

    def _do(self, stop: StopRequest) -> int:
        try:
            with self.progress:
                self._train(stop)
        except Diverged as end:
            return self._diverged(end)
        except Held:  # the directory now belongs to another process
            raise
        except Exception as error:
            if out_of_memory(error):
                line = memory_line(self.config, self.trainer.data, self.trainer.device)
                self._failed(error, line)
                raise UserError(line) from error
            self._failed(error, traceback.format_exc())
            raise
        if stop.signal is None:
            return self._completed()
        return self._interrupted(stop.signal.name, stop.signal.value)

    def _begin(self) -> None:
        run, trainer = self.run, self.trainer
        place = self.config.data.place
        run.state["data"] = {
            "digest": trainer.data.digest,
            "root": str(place) if place else None,
            "train": len(trainer.data.train_images),
            "validation": len(trainer.data.validation_images),
            "test": len(trainer.data.test_images),
            "classes": len(trainer.data.classes),
            "passed_over": trainer.data.passed_over,
        }
        run.state["code"] = own_code(self.config)
        run.state["steps_per_epoch"] = trainer.steps_per_epoch
        run.begin(from_step=self.first, **self.environment)
        trainer.flush()
        self.mirror = self._mirror()
        self.started = self.saved_at = time.monotonic()  # a tracker takes time to start
        verb = f"resuming from step {self.first} of" if self.first else "training"
        self._say(f"{run.folder}: {verb} {trainer.steps} steps")

    def _mirror(self) -> Mirror | None:
        """Create the mirror that shows the run to its tracker, continuing an earlier attempt's."""
        options, length = self.config.logger, self.trainer.steps_per_epoch
        name = " ".join([options.name, *(f"{key}={value}" for key, value in vars(options).items())])
        shown = self.run.state.get("shown", {})
        known = shown.get(name, {})
        made = mirror(options, self._shown(bool(known)), known, length, self._warn)
        if made is not None:
            self.run.state["shown"] = {**shown, name: known}
        return made

    def _shown(self, begun: bool) -> Shown:
        """Return what a tracker needs to know about the run."""
        run = self.run  # attempts whose processes never began have no start
        started = next(
            earlier["started"] for earlier in run.state["attempts"] if "started" in earlier
        )
        mark = digest({"study": self.config.study, "started": started})
        return Shown(
            run.folder,
            self.config.study,
            f"{run.folder.name}-{mark}",
            flat(run.state["identity"]),
            self.first,
            begun,
        )

    def _train(self, stop: StopRequest) -> None:
        trainer = self.trainer
        while True:
            if trainer.evaluation_pending:
                self._evaluate(stop)
            if stop.signal is not None or trainer.step == trainer.steps:
                break
            if self._checkpoint_due():
                self._save()
            self.step()
        self._save()

    def step(self) -> None:
        """Train one step and report it."""
        self.trainer.train_step()
        self._report_step()

    def _evaluate(self, stop: StopRequest) -> None:
        before = time.monotonic()

        def give_up() -> bool:
            self.run.beat(self._progress)
            return stop.signal is not None

        if self.trainer.evaluate(give_up):
            self._report_evaluation()
        self.spent_evaluating += time.monotonic() - before

    # ---------------------------------------------------------------- checkpoints

    def _checkpoint_due(self) -> bool:
        trainer, options = self.trainer, self.config.checkpoint
        if trainer.step == self.saved:
            return False
        since = time.monotonic() - self.saved_at
        if since >= 60 * options.every_minutes:
            return True
        if options.every_steps:
            return trainer.step % options.every_steps == 0
        affordable = self.last_saving <= CHECKPOINT_SHARE * since
        return trainer.step % trainer.steps_per_epoch == 0 and affordable

    def _save(self) -> None:
        before = time.monotonic()
        state = {**self.trainer.state_dict(), "environment": self.environment}
        self._show()  # rows that a checkpoint covers are not shown again
        if self.mirror is not None:
            self.run.beat(self._progress, at_once=True)
        checkpoint.save(self.run.folder, state)
        self.saved, self.saved_at = self.trainer.step, time.monotonic()
        self.last_saving = self.saved_at - before
        self.spent_saving += self.last_saving

    def _restored(self) -> bool:
        """Restore a checkpoint, and return whether there was one.

        If the run's records have changed, ``rerun=true`` starts over; otherwise the error is
        raised.
        """
        try:
            return checkpoint.restore(self.run.folder, self._resume, self._warn)
        except Changed:
            if not self.config.rerun:
                raise
        self.run.set_aside()
        return False

    def _resume(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state)
        for what, now in self.environment.items():
            then = state["environment"][what]
            if now != then:
                self._warn(
                    f"{what} was {then} and is now {now}: the run continues, but its results are "
                    f"not bit-identical to those of an uninterrupted run"
                )

    # ---------------------------------------------------------------- ends

    def _completed(self) -> int:
        self.trainer.close()
        checkpoint.prune(self.run.folder, self.config.checkpoint.keep)
        figures = result(self.run.folder)
        self.run.end("completed", "completed", result=figures, **self._pace())
        self._say(summary(self.run.state))
        return 0

    def _diverged(self, end: Diverged) -> int:
        self.trainer.close()
        checkpoint.prune(self.run.folder, self.config.checkpoint.keep)
        epoch = (end.step - 1) // self.trainer.steps_per_epoch + 1
        where = {"step": end.step, "epoch": epoch, "lambda": end.lambda_}
        self.run.end("diverged", "diverged", diverged=where, **self._pace())
        self._say(summary(self.run.state))
        return 0

    def _failed(self, error: Exception, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk may be the cause of the error
            self.trainer.close()
        with contextlib.suppress(OSError):
            self.run.end("failed", type(error).__name__, error=text)

    def _interrupted(self, name: str, number: int) -> int:
        self.run.end("interrupted", name, **self._pace())
        self._say(
            f"interrupted by {name} at step {self.trainer.step} of {self.trainer.steps}; "
            f"to resume: {self.run.command}"
        )
        return 128 + number

    def _pace(self) -> dict[str, Any]:
        seconds = time.monotonic() - self.started
        steps = self.trainer.step - self.first
        self.run.state["attempts"][-1].update(
            to_step=self.trainer.step,
            seconds=round(seconds, 3),
            seconds_evaluating=round(self.spent_evaluating, 3),
            seconds_saving=round(self.spent_saving, 3),
            peak_memory_bytes=peak_memory(),
            images_per_second=round(self._images(steps) / seconds, 1),
        )
        if (graph := self.trainer.graph) is not None:
            self.run.state["attempts"][-1]["cuda_graph"] = graph.refused or "used"
        return {"progress": self._progress()}

    # ---------------------------------------------------------------- words

    def _report_step(self) -> None:
        trainer = self.trainer
        for change in trainer.changes:
            self._say(change, bar_shows=False)
        trainer.changes.clear()
        test = f"{trainer.last_accuracy:.2f} %"
        self.progress.update(
            trainer.step,
            epoch=f"{self._epoch()}/{self.config.epochs}",
            loss=trainer.last_loss,
            lambda_=trainer.lambda_,
            test=test,
        )
        if self.run.beat(self._progress):
            trainer.flush()
            self._show()

    def _show(self) -> None:
        if self.mirror is not None:
            self.mirror.update()

    def _report_evaluation(self) -> None:
        trainer = self.trainer
        left = duration(self.progress.seconds_left(trainer.step))
        seconds = time.monotonic() - self.started
        self._say(
            f"epoch {self._epoch()}/{self.config.epochs}  loss {trainer.last_loss:.4f}  "
            f"λ {trainer.lambda_:.3g}  test {trainer.last_accuracy:.2f} %  "
            f"{self._images(trainer.step - self.first) / seconds:.0f} images/s  {left} left",
            bar_shows=True,
        )

    def _say(self, line: str, *, bar_shows: bool = False) -> None:
        self.run.log(line)
        if bar_shows:
            self.progress.epoch_line(line)
        else:
            self.progress.line(line)

    def _warn(self, text: str) -> None:
        self.run.log(f"warning: {text}")
        Terminal().print(f"warning: {text}", markup=False)

    def _epoch(self) -> int:
        return (self.trainer.step - 1) // self.trainer.steps_per_epoch + 1

    def _images(self, steps: int) -> float:
        return steps * self.trainer.size / self.trainer.steps_per_epoch

    def _progress(self) -> dict[str, Any]:
        trainer = self.trainer
        return {
            "step": trainer.step,
            "steps": trainer.steps,
            "epoch": self._epoch(),
            "epochs": self.config.epochs,
            "loss": trainer.last_loss,
            "lambda": trainer.lambda_,
            "test_accuracy": trainer.last_accuracy,
            "seconds_left": self.progress.seconds_left(trainer.step),
        }
