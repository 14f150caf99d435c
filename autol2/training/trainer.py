"""The training loop: step, measure, evaluate, checkpoint.

λ is applied as a weight decay of 2λ; for SGD, this is the gradient of the penalty λ·Σθ² over all
parameters. Measurements are read back from the device only when something depends on them, so that
the CPU does not wait for a GPU needlessly.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..config import Config
from ..data.dataset import Dataset
from ..errors import UserError
from ..models import rng
from ..models.kernels.allocator import keep_freed_memory
from ..models.probe import require_single_images, set_buffers, unsaved_buffers
from ..recipe.augmentations.augmentation import generator as step_generator
from ..rules.auto_l2 import sign_flip
from ..rules.method import LambdaPolicy
from ..rules.schedules import pulse
from ..runs.records import Records, require_unchanged
from . import network, optimizer
from .graph import RecordedGradients, Work
from .network import layers

MEASUREMENTS = (
    "epoch",
    "step",
    "lambda",
    "train_loss",
    "train_accuracy",
    "event",
    "penalty",
    "weight_norm",
    "lr",
)
EVALUATIONS = (
    "epoch",
    "step",
    "lambda",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
)
VALIDATION = ("validation_loss", "validation_accuracy")


class Diverged(Exception):
    """The training loss is not finite any more."""

    def __init__(self, step: int, lambda_: float) -> None:
        super().__init__(f"the loss is not finite at step {step}, with λ = {lambda_:g}")
        self.step, self.lambda_ = step, lambda_


class Trainer:
    """Trains one run, from its first step or from a checkpoint.

    Args:
        config: the run's configuration.
        data: the data set, on any device.
        folder: the run's directory, for records and checkpoints.
        device: the device to train on.
    """

    def __init__(self, config: Config, data: Dataset, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.data = data.to(device)
        channels, height, width = data.train_images.shape[1:]
        self.model = network.build(
            config,
            (channels, height, width),
            len(data.classes),
            _seed(config.seed, "weights"),
            device,
        )
        self.parameters = list(self.model.parameters())
        self.layers = layers(self.model)
        self.size = len(data.train_images)
        if (self.size - 1) % config.batch_size == 0:
            image = self.data.normalize(self.data.train_images[:1])
            require_single_images(self.model, image, config.batch_size)
        self.steps_per_epoch = -(-self.size // config.batch_size)
        self.steps = config.epochs * self.steps_per_epoch
        self.measure_every = config.method.measure_every
        self.optimizer, self.policy = self._decide_lambda()
        self.lr_schedule = config.lr_schedule.build(self.optimizer, self.steps)
        self.lr_factors = optimizer.lr_factors(self.optimizer)
        self.loss_scale = config.loss.scale(len(data.classes))
        self.step = 0
        """Number of steps done."""
        self.evaluation_pending = False
        """Whether the test set has to be evaluated before the next step."""
        self.losses = torch.zeros(self.steps_per_epoch, device=device)
        self.hits = torch.zeros(self.steps_per_epoch, dtype=torch.int64, device=device)
        self.squares = torch.zeros(self.steps_per_epoch, device=device)
        self.penalties = torch.zeros(self.steps_per_epoch, device=device)
        """For each step of the epoch: mean loss and number of correct images; in measured steps,
        also Σθ² and the penalty's Σθ² (see `optimizer.penalized_squares`)."""
        self.lrs = [math.nan] * self.steps_per_epoch
        """The learning rate of each step of the epoch."""
        self.reads_at_once = self.policy.measures or device.type == "cpu"
        """Whether a measurement is read back at once, or at the end of its epoch."""
        self.own_lambdas = torch.zeros(self.steps_per_epoch, device=device)
        """The λ of each step of the epoch, if the optimizer finds it."""
        self.read = 0
        """Number of steps of the epoch whose measurements have been read back."""
        self.order = torch.empty(0, dtype=torch.int64)
        self.gradients: Work = self._gradients
        """Computes a step's forward and backward pass."""
        self.graph: RecordedGradients | None = None
        if device.type == "cuda" and config.cuda_graph == "auto":
            self.graph = self.gradients = RecordedGradients(
                self._gradients,
                self.parameters,
                self.changing,
                lambda line: self.changes.append(f"warning: {line}"),
            )
        self.warm = False
        """Whether this process has done a step."""
        self.measurements: Records
        self.evaluations: Records
        self.warned = False
        self.changes: list[str] = []
        """Lines about changes of λ that have not been reported yet."""
        self.last_loss = math.nan
        self.last_lambda = 0.0
        self.last_accuracy = math.nan

    # ---------------------------------------------------------------- one step

    def train_step(self) -> None:
        """Do one optimizer step and, if due, a measurement (see `read_back`)."""
        position = self.step % self.steps_per_epoch
        if position == 0:
            self._begin_epoch()
        batch = self.config.batch_size
        if not self.policy.measures:
            self._apply_lambda()
        measured = self._measured(self.step)
        if measured:
            self._measure_parameters(position)
        self.lrs[position] = optimizer.learning_rate(self.optimizer)
        self.model.train()
        self.gradients(
            self.order[position * batch : (position + 1) * batch],
            self._drawn(self._batch(position)),
            torch.full((1,), position, dtype=torch.int64, device=self.device),
        )
        if measured and self.policy.before_update:
            self._read(self.step + 1)
        self.optimizer.step()
        if self.lr_schedule is not None:
            self.lr_schedule.step()
            self._warn_of_sign_flip()
        if self.graph is None:  # the graph discards them itself
            self.optimizer.zero_grad()  # at once, since the next forward pass needs the memory
        if not self.warm:
            self.warm = True
            if self.device.type == "cpu" and self.config.cpu_kernels:
                keep_freed_memory()
        if (own := self.policy.observe()) is not None:
            self.own_lambdas[position] = own
        self.step += 1
        self.evaluation_pending = self._evaluation_due()
        ended = position + 1 == self.steps_per_epoch
        if ended or (measured and self.reads_at_once):
            self.read_back()

    def _gradients(self, index: Tensor, numbers: Tensor, place: Tensor) -> None:
        """Run the forward and backward pass on the images of `index`, augmented with `numbers`.

        Loss and hits are written to position `place` of the epoch.
        """
        images = self.data.normalize(self.data.train_images[index])
        targets = self.data.train_labels[index]
        images, targets = self.config.augmentation.apply(
            images, targets, numbers, len(self.data.classes)
        )
        scores = self._scores(images)
        loss = self.config.loss(scores, targets)
        (loss * self.loss_scale if self.loss_scale != 1 else loss).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            likeliest = targets if targets.dim() == 1 else targets.argmax(1)
            self.losses.index_copy_(0, place, loss[None])
            self.hits.index_copy_(0, place, (scores.argmax(1) == likeliest).sum()[None])

    def _drawn(self, batch: int) -> Tensor:
        """Return the random numbers for the augmentation of the next step."""
        generator = step_generator(self.config.seed, self.step)
        numbers = self.config.augmentation.draw(generator, batch)
        drawn = torch.from_numpy(numbers)
        if self.device.type == "cuda":  # without waiting for queued steps
            return drawn.pin_memory().to(self.device, non_blocking=True)
        return drawn.to(self.device)

    def _measured(self, step: int) -> bool:
        """Return whether a step, given its number from 0, is measured."""
        if self.policy.before_update:
            return step % self.measure_every == 0
        return (step % self.steps_per_epoch + 1) % self.measure_every == 0

    @property
    def done_of_epoch(self) -> int:
        """The number of steps done in the last step's epoch; 0 before the first step."""
        return (self.step - 1) % self.steps_per_epoch + 1 if self.step else 0

    def read_back(self) -> None:
        """Read back the steps up to the last measurement, record them, and let λ react.

        Later steps wait for the next measurement (or the end of the epoch), so that it does not
        matter when this is called.

        Raises:
            Diverged: one of the losses is not finite.
        """
        if self.step:
            self._read(self.step)

    def _read(self, steps: int) -> None:
        """Read back the first `steps` steps of the run (see `read_back`)."""
        epoch_start = (steps - 1) // self.steps_per_epoch * self.steps_per_epoch
        done = steps - epoch_start
        if done < self.steps_per_epoch:
            while done > self.read and not self._measured(epoch_start + done - 1):
                done -= 1
        first, self.read = self.read, done
        losses = self.losses[first:done].tolist()
        hits = self.hits[first:done].tolist()
        squares = self.squares[first:done].tolist()
        penalties = self.penalties[first:done].tolist()
        own_lambdas = self.own_lambdas[first:done].tolist()
        diverged: Diverged | None = None
        for position, loss in enumerate(losses, first):
            place = position - first
            lambda_ = (
                own_lambdas[place] if self.own else self.policy.lambda_at(epoch_start + position)
            )
            self.last_loss, self.last_lambda = loss, lambda_
            if diverged is None and not math.isfinite(loss):
                diverged = Diverged(epoch_start + position + 1, lambda_)
            if self._measured(epoch_start + position):
                penalty = lambda_ * (squares[place] if self.own else penalties[place])
                accuracy = 100.0 * hits[place] / self._batch(position)
                event = "diverged"
                if diverged is None:
                    event = self._react(epoch_start, position, loss, accuracy)
                epoch, norm = epoch_start // self.steps_per_epoch, math.sqrt(squares[place])
                lr = self.lrs[position]
                self.measurements.append(
                    [epoch, position + 1, lambda_, loss, accuracy, event, penalty, norm, lr]
                )
                if diverged is not None:
                    break
        if diverged is not None:
            raise diverged

    def _react(self, epoch_start: int, position: int, loss: float, accuracy: float) -> str:
        """Pass a measurement to the policy, and return what happened to λ."""
        step = epoch_start + position + 1
        before = self.policy.lambda_at(step)
        decision = self.policy.measure(loss, accuracy, step, position + 1)
        if self.policy.measures and decision.lambda_ != before:
            self._apply_lambda()
            self.changes.append(
                f"step {step}: λ {before:g} → {decision.lambda_:g} ({decision.reason})"
            )
        return decision.event

    @torch.no_grad()
    def _measure_parameters(self, position: int) -> None:
        self.squares[position] = optimizer.sum_of_squares(self.parameters)
        if len(self.optimizer.param_groups) == 1:
            self.penalties[position] = self.squares[position]
        elif not self.own:
            self.penalties[position] = optimizer.penalized_squares(self.optimizer)

    def changing(self) -> list[Tensor]:
        """Return the tensors that a forward and backward pass changes, apart from gradients."""
        return [*self.model.buffers(), self.losses, self.hits]

    def _begin_epoch(self) -> None:
        self.read = 0
        self.squares.zero_()
        self.penalties.zero_()
        self.order = epoch_order(self.size, self.config.seed, self.step // self.steps_per_epoch).to(
            self.device
        )

    def _batch(self, position: int) -> int:
        batch = self.config.batch_size
        return min(batch, self.size - position * batch)

    def _scores(self, images: Tensor) -> Tensor:
        bf16 = self.config.precision.name == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            scores: Tensor = self.model(images)
        return scores.float()

    def _decide_lambda(self) -> tuple[torch.optim.Optimizer, LambdaPolicy]:
        """Return the optimizer and the policy that decides λ."""
        config, control = self.config, self.config.control
        made, policy = config.method.build(
            config.circumstances(self.steps, config.lr),
            self.model,
            lambda: config.optimizer.build(optimizer.groups(config, self.model), config.lr),
        )
        if control.pulse_length:
            policy = pulse(policy, control.pulse_height, control.pulse_length)
        self.own = config.method.own_lambda
        if not self.own:
            optimizer.require_weight_decay(made, config)
        if (
            policy.measures
            and not policy.before_update
            and self.measure_every > self.steps_per_epoch
        ):
            raise UserError(
                f"an epoch has {self.steps_per_epoch} steps, so method.measure_every="
                f"{self.measure_every} would never measure: use method.measure_every="
                f"{self.steps_per_epoch} or less, or a smaller batch_size"
            )
        return made, policy

    @property
    def lambda_(self) -> float:
        """The λ of the next step; if the optimizer finds it, that of the last step read back."""
        return self.last_lambda if self.own else self.policy.lambda_at(self.step)

    def _apply_lambda(self) -> None:
        if self.own:
            return
        optimizer.apply_lambda(self.optimizer, self.lambda_)
        self._warn_of_sign_flip()

    def _warn_of_sign_flip(self) -> None:
        if not self.own and not self.warned and (warning := sign_flip(self.optimizer.param_groups)):
            self.warned = True
            self.changes.append(f"warning: {warning}")

    # ---------------------------------------------------------------- evaluation

    def _evaluation_due(self) -> bool:
        every = self.config.evaluation
        epoch, position = divmod(self.step - 1, self.steps_per_epoch)
        if position + 1 == self.steps_per_epoch:
            return (epoch + 1) % every.every_epochs == 0 or self.step == self.steps
        return every.every_steps > 0 and (position + 1) % every.every_steps == 0

    @torch.inference_mode()
    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Evaluate the test set and append a row to epochs.csv; return False if stopped."""
        self.read_back()
        self.model.eval()
        before = rng.state(self.device)
        test = self._evaluate_on(self.data.test_images, self.data.test_labels, stop)
        validation: tuple[float, float] | None = None
        if test is not None and len(self.data.validation_images):
            validation = self._evaluate_on(
                self.data.validation_images, self.data.validation_labels, stop
            )
        if test is None or (validation is None and len(self.data.validation_images)):
            rng.restore(before, self.device)  # the evaluation will be repeated from its beginning
            return False
        self.last_accuracy = test[1]
        epoch, position = divmod(self.step - 1, self.steps_per_epoch)
        sizes = [self._batch(place) for place in range(position + 1)]
        train_loss = math.fsum(
            loss * size
            for loss, size in zip(self.losses[: position + 1].tolist(), sizes, strict=True)
        )
        train_hits = int(self.hits[: position + 1].sum())
        row: list[object] = [
            epoch,
            position + 1,
            float(self.own_lambdas[position]) if self.own else self.lambda_,
            self.lrs[position],
            train_loss / sum(sizes),
            100.0 * train_hits / sum(sizes),
            *test,
            *(validation or ()),
            math.sqrt(float(optimizer.sum_of_squares(self.parameters))),
        ]
        for weights in self.layers.values():
            norms = [float(torch.linalg.vector_norm(weight)) for weight in weights]
            norm = math.hypot(*norms) / math.sqrt(len(norms))
            lr = self.lrs[position] * statistics.fmean(
                self.lr_factors[weight] for weight in weights
            )
            row += [norm, lr / norm**2 if norm else math.inf]
        self.evaluations.append(row)
        self.evaluation_pending = False
        return True

    def _evaluate_on(
        self, images: Tensor, labels: Tensor, stop: Callable[[], bool]
    ) -> tuple[float, float] | None:
        """Return mean loss and accuracy (%) on uint8 `images`; None if `stop` returns True."""
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        size = self.config.evaluation.batch_size
        for first in range(0, len(images), size):
            if stop():
                return None
            some = labels[first : first + size]
            scores = self._scores(self.data.normalize(images[first : first + size]))
            loss += cross_entropy(scores, some, reduction="sum")
            hits += (scores.argmax(1) == some).sum()
        return float(loss) / len(images), 100.0 * int(hits) / len(images)

    @property
    def evaluation_columns(self) -> list[str]:
        """The columns of epochs.csv, with each layer's ‖w‖ and effective learning rate lr/‖w‖².

        For a group of layers, ‖w‖² is their mean.
        """
        shown = [f"{what}_{layer}" for layer in self.layers for what in ("norm", "effective_lr")]
        validation = VALIDATION if len(self.data.validation_images) else ()
        return [*EVALUATIONS, *validation, "weight_norm", *shown]

    # ---------------------------------------------------------------- state

    def begin(self) -> None:
        """Start at step 0 with empty records."""
        self.measurements = Records(self.folder / "measurements.csv", MEASUREMENTS)
        self.evaluations = Records(self.folder / "epochs.csv", self.evaluation_columns)
        self._apply_lambda()
        rng.begin(_seed(self.config.seed, "layers"))  # for dropout and the like, on any device

    def flush(self, *, to_disk: bool = False) -> None:
        """Flush the records to the operating system and, with `to_disk`, to the disk."""
        self.measurements.flush(to_disk=to_disk)
        self.evaluations.flush(to_disk=to_disk)

    def close(self) -> None:
        """Close the records."""
        self.measurements.close()
        self.evaluations.close()

    def state_dict(self) -> dict[str, Any]:
        """Return all that determines the rest of the run; the records are then on disk."""
        self.read_back()
        self.flush(to_disk=True)
        position = self.done_of_epoch
        return {
            "step": self.step,
            "evaluation_pending": self.evaluation_pending,
            "model": self.model.state_dict(),
            "buffers": unsaved_buffers(self.model),
            "optimizer": self.optimizer.state_dict(),
            "policy": self.policy.state_dict(),
            "order": self.order.to(torch.int32),
            "read": self.read,
            "losses": self.losses[:position].clone(),
            "hits": self.hits[:position].clone(),
            "lrs": self.lrs[:position],
            "lr_schedule": None if self.lr_schedule is None else self.lr_schedule.state_dict(),
            "squares": self.squares[:position].clone(),
            "penalties": self.penalties[:position].clone(),
            "own_lambdas": self.own_lambdas[:position].clone(),
            "rng": rng.state(self.device),
            "last_accuracy": self.last_accuracy,
            "data": self.data.digest,
            "last_loss": self.last_loss,
            "last_lambda": self.last_lambda,
            "measurements": self.measurements.position,
            "evaluations": self.evaluations.position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`, and truncate the records to match it.

        Raises:
            Changed: the records on disk do not begin with those of `state`.
            UserError: the run was started on other data.
        """
        if state["data"] != self.data.digest:
            raise UserError(
                f"{self.folder} was started on different data: give yours another name with "
                f"data.name=NAME"
            )
        known = state["measurements"], state["evaluations"]
        # before the other file is truncated
        require_unchanged(self.folder / "epochs.csv", known[1])
        self.measurements = Records(self.folder / "measurements.csv", MEASUREMENTS, known[0])
        columns = self.evaluation_columns
        self.evaluations = Records(self.folder / "epochs.csv", columns, known[1])
        self.step = state["step"]
        self.evaluation_pending = state["evaluation_pending"]
        position = len(state["losses"])
        self.read = state["read"]
        self.losses[:position] = state["losses"]
        self.hits[:position] = state["hits"]
        self.lrs[:position] = state["lrs"]
        self.squares[:position] = state["squares"]
        self.penalties[:position] = state["penalties"]
        self.own_lambdas[:position] = state["own_lambdas"]
        self.order = state["order"].to(self.device, torch.int64)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.lr_schedule is not None:
            self.lr_schedule.load_state_dict(state["lr_schedule"])
        self.policy.load_state_dict(state["policy"])
        self._apply_lambda()
        set_buffers(self.model, state["buffers"])
        rng.restore(state["rng"], self.device)
        self.last_loss, self.last_lambda = state["last_loss"], state["last_lambda"]
        self.last_accuracy = state["last_accuracy"]


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the images in an epoch: int64 [size], the same on every device."""
    generator = torch.Generator().manual_seed(_seed(seed, "order", epoch))
    return torch.randperm(size, generator=generator)


def _seed(seed: int, *purpose: object) -> int:
    """Derive an independent seed for each purpose from a run's seed."""
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
