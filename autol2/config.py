"""The configuration schema: every option of a run, documented and validated.

`conf/` holds the values; dataclasses hold the names, types and bounds. The dataclasses of the
components (`autol2.component`) are in their own modules, those of a run as a whole in this one.
Hydra composes a `DictConfig`, which `parse` turns into a `Config`. Its ``__post_init__`` methods
reject invalid values with a `UserError`, one line that says what to type instead.
"""

from __future__ import annotations

import copy
import difflib
import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Any, TypeVar, get_type_hints

import omegaconf
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from .component import Component, Options, locate, option
from .data.source import DataSource
from .errors import UserError, require, require_choice
from .models.model import Model
from .recipe.augmentations.augmentation import Augmentation
from .recipe.augmentations.none import NoAugmentation
from .recipe.losses import CrossEntropy, Loss
from .recipe.lr_schedules.constant import Constant
from .recipe.lr_schedules.lr_schedule import LRSchedule
from .recipe.optimizers.optimizer import Optimizer
from .rules.method import (
    LARGEST,
    Alpha,
    Circumstances,
    FixedLambda,
    Method,
    ProtocolOptions,
)
from .rules.rule import Rule
from .trackers.tracker import TrackerOptions

PARAMETERS = ("all", "weights", "convolutions")
PRECISIONS = ("fp32", "tf32", "bf16")
KEEPS = ("last", "none", "both")
THREADS = 1024
"""The largest number of threads of a run."""

Schema = TypeVar("Schema")


@dataclass
class BatchnormConfig(Options):
    """Batch normalisation after each convolution, before its ReLU."""

    enabled: bool = omegaconf.MISSING
    """Set by batchnorm=on and batchnorm=off."""


@dataclass
class PrecisionConfig(Options):
    """Number format of the arithmetic in the forward and backward passes."""

    name: str = omegaconf.MISSING
    """fp32 (strict), tf32 (NVIDIA's, GPU only) or bf16 (autocast)."""

    def __post_init__(self) -> None:
        require_choice("precision", self.name, PRECISIONS)


@dataclass
class EvaluationConfig(Options):
    """How often the test set is evaluated. It is always evaluated at the end of the last epoch."""

    every_epochs: int = 1
    """Evaluate at the end of every n-th epoch."""
    every_steps: int = 0
    """Also evaluate after every n-th step of an epoch (5 in the paper's runs); 0 for never."""
    batch_size: int = 250
    """Number of images per evaluation batch."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 1, "evaluation.every_epochs must be at least 1")
        require(self.every_steps >= 0, "evaluation.every_steps must be at least 0")
        require(self.batch_size >= 1, "evaluation.batch_size must be at least 1")


@dataclass
class CheckpointConfig(Options):
    """How often checkpoints are written during a run. A run is also saved at its end and when it
    is interrupted."""

    every_steps: int = 0
    """Save every n-th step of the run; 0 saves at the end of each epoch, provided that saving takes
    less than one hundredth of the time."""
    every_minutes: float = 5.0
    """Also save whenever this many minutes have passed since the last checkpoint."""
    keep: str = "both"
    """Which checkpoints a finished run keeps: last (the newest), both (the newest and the one
    before, in case the newest is damaged), or none."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 0, "checkpoint.every_steps must be at least 0")
        require(self.every_minutes > 0, "checkpoint.every_minutes must be above 0")
        require_choice("checkpoint.keep", self.keep, KEEPS)


@dataclass
class ControlConfig(Options):
    """Changes that test *why* a schedule helps (conf/experiment/explain.yaml)."""

    penalized: str = option("all", neutral="all")
    """What the penalty covers: all parameters, weights (without biases and batch-norm's) or
    convolutions (their weights)."""
    parameters: str = "all"
    """What `scale` and `lr_factor` change: all, weights or convolutions."""
    scale: float = option(1.0, neutral=1.0)
    """Factor on these parameters at initialisation; the published Advance L2 run with batch-norm
    shrinks them by the factor 0.084 (first attempt, product of 1 - lr·2λ)."""
    lr_factor: float = option(1.0, neutral=1.0)
    """Factor on the learning rate of these parameters. Their λ is divided by it, so that the decay
    per step stays the same. Below batch-norm, 1/scale² has the same effect as `scale`."""
    pulse_height: float = 0.0
    """λ of the first `pulse_length` steps; after them, λ is fixed_lambda."""
    pulse_length: int = option(0, neutral=0)
    """Length of the pulse in steps; 0 for no pulse."""

    def __post_init__(self) -> None:
        require_choice("control.penalized", self.penalized, PARAMETERS)
        require_choice("control.parameters", self.parameters, PARAMETERS)
        for name in ("scale", "lr_factor"):
            value = getattr(self, name)
            require(1e-6 <= value <= 1e6, f"control.{name} must be from 1e-6 to 1e6, not {value:g}")
        require(
            0 <= self.pulse_height <= LARGEST,
            f"control.pulse_height must be from 0 to {LARGEST:g}, not {self.pulse_height:g}",
        )
        require(
            self.pulse_length >= 0,
            f"control.pulse_length must be at least 0, not {self.pulse_length}",
        )

    def identity(self) -> dict[str, Any]:
        """Return the identity; options that modify others count only if those others are set."""
        known = super().identity()
        if not {"scale", "lr_factor"} & known.keys():
            known.pop("parameters", None)
        if "pulse_length" not in known:
            known.pop("pulse_height", None)
        return known


@dataclass
class RuleConfig(Options):
    """The options that decide λ."""

    method: Method
    alpha: Alpha
    fixed_lambda: FixedLambda
    protocol: ProtocolOptions

    def circumstances(self, steps: int = 1, lr: float = math.nan) -> Circumstances:
        """Return what the method may use in a run of `steps` steps."""
        return Circumstances(self.alpha, self.fixed_lambda, self.protocol, steps, lr)

    def rule(self) -> Rule:
        """Return the rule that these options describe.

        Raises:
            UserError: the method does not use measurements.
        """
        return self.method.rule(self.circumstances())

    def identity(self) -> dict[str, Any]:
        """Return the identity, with only those groups that the method uses."""
        known = super().identity()
        for group in ("alpha", "fixed_lambda"):
            if group not in self.method.uses:
                del known[group]
        if "protocol" not in self.method.uses:
            known["protocol"] = {"initialization": self.protocol.initialization}
        return known


@dataclass
class Config(RuleConfig):
    """The complete configuration of a run."""

    batchnorm: BatchnormConfig
    data: DataSource
    model: Model
    optimizer: Optimizer
    precision: PrecisionConfig
    augmentation: Augmentation = option(neutral=NoAugmentation())
    lr_schedule: LRSchedule = option(neutral=Constant())
    loss: Loss = option(neutral=CrossEntropy())
    logger: TrackerOptions = option(no_effect="it shows a run and decides nothing")
    control: ControlConfig = field(default_factory=ControlConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = option(
        CheckpointConfig, no_effect="a resumed run is the run that was never stopped"
    )
    epochs: int = 200
    """Passes over the training set."""
    batch_size: int = 128
    """Images per step. The last batch of an epoch may be smaller; it is not dropped."""
    lr: float = 0.01
    """Learning rate; with a schedule, its maximum."""
    seed: int = 0
    """Determines the initial weights, the order of the images and all other random draws."""
    study: str = option("default", no_effect="where a run is kept")
    """Name of the set of runs that this run belongs to; its folder in `outputs`."""
    outputs: str = option("outputs", no_effect="where a run is kept")
    """Folder in which studies are stored."""
    device: str = option("auto", no_effect="hardware is recorded with each attempt")
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int = option(0, no_effect="hardware is recorded with each attempt")
    """Number of CPU threads; 0 keeps PyTorch's default. Results are bit-identical only for the same
    number of threads."""
    cuda_graph: str = option("auto", no_effect="a graph is used only if it gives the same bits")
    """On a GPU: auto records the forward and backward passes as a CUDA graph, unless recording
    fails or changes the result; off launches each operation separately."""
    cpu_kernels: bool = option(True, neutral=True)
    """On a CPU, train the paper's network with this package's own kernels (Winograd, fused
    batch-norm; they reorder sums, which changes results by about 1e-6) and keep freed memory in the
    process."""
    rerun: bool = option(False, no_effect="it says what to do with a run that is there")
    """Repeat a run that is already finished."""

    def __post_init__(self) -> None:
        control, method = self.control, self.method
        require(
            control.pulse_length == 0 or method.baseline,
            f"control.pulse_length needs a method with a fixed λ, not method={method.name}",
        )
        require(
            not method.own_lambda or (control.penalized == "all" and control.lr_factor == 1),
            f"method={method.name} chooses what it penalises: leave out control.penalized and "
            f"control.lr_factor",
        )
        require(
            not method.optimizers or self.optimizer.name in method.optimizers,
            f"method={method.name} needs optimizer={' or '.join(method.optimizers)}",
        )
        require(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        require(math.isfinite(self.lr) and self.lr > 0, f"lr must be above 0, not {self.lr:g}")
        require(self.lr <= 1e6, f"lr must be at most 1e6, not {self.lr:g}")
        require(self.seed >= 0, f"seed must be at least 0, not {self.seed}")
        require(self.seed < 2**63, f"seed must be below 2^63, not {self.seed}")
        require(
            0 <= self.threads <= THREADS,
            f"threads must be from 0 to {THREADS}, not {self.threads}",
        )
        method.check(
            Circumstances(self.alpha, self.fixed_lambda, self.protocol, self.epochs, self.lr)
        )
        self.model.require_batchnorm_off(self.batchnorm.enabled)
        study_name(self.study)
        require(self.outputs != "", "outputs= is empty: name a folder, as in outputs=outputs")
        require_choice("cuda_graph", self.cuda_graph, ("auto", "off"))
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            f"device={self.device} is not one of auto, cpu, cuda, cuda:N",
        )


def study_name(name: str) -> str:
    """Return `name` if it is a valid name for a study's folder, else raise a `UserError`."""
    require(
        re.fullmatch(r"\w[\w.+-]*", name, re.ASCII) is not None,
        f"study={name} is not a plain name: use letters, digits, '.', '_', '+' and '-', "
        f"as in study=paper",
    )
    return name


def parse(cfg: DictConfig) -> Config:
    """Validate a composed `cfg` and return its `Config`; see `parse_as` for the exceptions."""
    return parse_as(Config, cfg)


def parse_as(schema: type[Schema], cfg: DictConfig) -> Schema:
    """Validate a composed `cfg` and return it as an instance of the dataclass `schema`.

    Raises:
        UserError: the value of an option is invalid, or there is no such option.
        omegaconf.errors.OmegaConfBaseException: an option is missing or has the wrong type.
    """
    for key in map(str, cfg):
        require(key in _types(schema), f"there is no option {key}")
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return parse_plain(schema, {str(key): value for key, value in plain.items()})


def parse_plain(schema: type[Schema], options: Mapping[str, Any]) -> Schema:
    """Validate `options`, plain dicts and values, and return an instance of the dataclass `schema`.

    Raises:
        UserError, omegaconf.errors.OmegaConfBaseException: see `parse_as`.
    """
    types = _types(schema)
    values: dict[str, Any] = {}
    for key, value in options.items():
        require(key in types, f"there is no option {key}")
        kind = types[key]
        if isinstance(kind, type) and issubclass(kind, Options):
            require(isinstance(value, dict), f"{key} is a group of options, not {value!r}")
            # The runs of a sweep share most groups, so these are cached; each caller gets its own
            # copy.
            value = copy.deepcopy(_kept_options(key, kind, json.dumps(value)))
        values[key] = value
    try:
        return schema(**values)
    except TypeError as error:
        raise UserError(f"{error}") from None


_types: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)


def _options(group: str, kind: type[Options], text: str) -> Options:
    """Validate the options of `group`, given as JSON; for a component, create its class."""
    given = json.loads(text)
    if issubclass(kind, Component):
        require("_target_" in given, f"{group} does not name a class: its file needs a _target_")
        kind = locate(str(given.pop("_target_")), group, kind)
    known = {item.name for item in fields(kind)}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), 1)
            hint = f": {', '.join(sorted(known))}" if known else f": this {group} has none"
            hint = f"; did you mean {group}.{near[0]}?" if near else hint
            raise UserError(f"there is no option {group}.{key}{hint}")
    typed = OmegaConf.create({group: OmegaConf.structured(kind)})
    typed.merge_with({group: given})
    try:
        made = OmegaConf.to_object(typed[group])
    except UserError as error:  # OmegaConf appends lines to the message
        raise UserError(str(error).splitlines()[0]) from None
    assert isinstance(made, Options)
    return made


_kept_options: Callable[..., Options] = functools.lru_cache(maxsize=1024)(_options)


def as_schema(schema: type[Any]) -> DictConfig:
    """Return `schema` for Hydra, with components as untyped fields.

    All other fields keep their types, so that Hydra rejects a wrong type when it composes.
    """
    types = get_type_hints(schema)
    open_fields: list[Any] = []
    for item in fields(schema):
        kind = types[item.name]
        if isinstance(kind, type) and issubclass(kind, Component):
            open_fields.append((item.name, Any, omegaconf.MISSING))
        elif item.default is MISSING and item.default_factory is MISSING:
            open_fields.append((item.name, kind, omegaconf.MISSING))
        elif item.default_factory is not MISSING:
            open_fields.append((item.name, kind, field(default_factory=item.default_factory)))
        else:
            open_fields.append((item.name, kind, item.default))
    made: DictConfig = OmegaConf.structured(
        make_dataclass(schema.__name__, open_fields, namespace={"documented": schema})
    )
    return made


def epochs_at(time: float, *, _root_: DictConfig) -> int:
    """Return the number of epochs after which lr·λ, added up once per epoch, reaches `time`.

    It is the resolver ``${autol2.epochs_at:0.02}``: a training length in proportion to 1/λ (and to
    1/lr) for a sweep over `fixed_lambda`.
    """
    rate = float(_root_.lr) * float(_root_.fixed_lambda.value)
    require(rate > 0, "a training length in proportion to 1/λ needs fixed_lambda above 0")
    return max(1, round(float(time) / rate))


OmegaConf.register_new_resolver("autol2.epochs_at", epochs_at, replace=True)
ConfigStore.instance().store(name="schema", node=as_schema(Config))
