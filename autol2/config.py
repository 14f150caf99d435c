"""The schema: every option of a run, documented and validated.

`conf/` holds the values; these dataclasses hold the names, types and bounds. Hydra composes a
`DictConfig` that `parse` turns into a `Config`, whose ``__post_init__`` methods refuse what makes
no sense with a `UserError`: one line that says what to type instead.
"""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import dataclass, field, is_dataclass
from typing import TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from .errors import UserError, require, require_choice, require_finite
from .rules.controller import METHODS, PROTOCOLS, Rule

ADAPTIVE = tuple(method for method in METHODS if method != "fixed")
PEERS = ("cosine", "decoupled", "cpr")
"""Methods that are not the paper's, to compare with."""
OPTIMIZERS = ("sgd", "adamw")
PARAMETERS = ("all", "weights", "convolutions")
KAPPA_INITS = ("inflection_point", "warm_start", "dependent", "uniform")
INITIALIZATIONS = ("published", "paper")
PRECISIONS = ("fp32", "tf32", "bf16")
SOURCES = ("cifar10", "digits", "imagefolder")
LOGGERS = {"none": None, "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Experiment trackers and the package that each needs; its extra has the tracker's name."""


Schema = TypeVar("Schema")


@dataclass
class MethodConfig:
    """How λ moves: by the paper's Algorithms 1 to 4, or as its peers do it.

    `fixed`, `decoupled` and `cpr` use none of the adaptive options but `k`.
    """

    name: str = MISSING
    """fixed, auto_l2 (Algorithm 1), threshold (2), advance (3) or combined (4); cosine, decoupled
    (both see autol2/rules/schedules.py) or cpr (see autol2/training/optimizer.py)."""
    optimizer: str = "sgd"
    """sgd or adamw. decoupled and cpr need adamw, of which cpr replaces the decay."""
    k: int = 5
    """Steps between two measurements of the training loss and accuracy (paper, section 4)."""
    initial_lambda: float = 0.1
    """λ at the first step, in the paper's convention: the penalty is λ·Σθ², without ½."""
    decay_factor: float = 0.1
    """λ is multiplied by this when it decays and divided by it when it is raised; within (0, 1)."""
    cooldown: float = 0.1
    """After a change λ rests for ``cooldown / λ`` steps."""
    raise_when_converged: int = 0
    """Raise λ after this many measurements in a row without a new minimum of loss or error
    (the paper's future work); 0 never does."""
    final_lambda: float = 0.0
    """λ at the last step of cosine."""
    kappa_init: str = "inflection_point"
    """How cpr finds its bounds: inflection_point, warm_start, dependent or uniform."""
    kappa_init_param: float = 1000.0
    """cpr: the step of warm_start, the factor of dependent, the bound of uniform."""

    def __post_init__(self) -> None:
        require_choice("method", self.name, (*METHODS, *PEERS))
        require_choice("method.optimizer", self.optimizer, OPTIMIZERS)
        require(
            self.optimizer == "adamw" or self.name not in ("decoupled", "cpr"),
            f"method={self.name} needs method.optimizer=adamw"
            + (": under plain SGD it is method=fixed" if self.name == "decoupled" else ""),
        )
        require(
            self.name != "cpr" or importlib.util.find_spec("pytorch_cpr") is not None,
            "method=cpr needs the package pytorch-cpr: pip install pytorch-cpr",
        )
        require_choice("method.kappa_init", self.kappa_init, KAPPA_INITS)
        require_finite("method.kappa_init_param", self.kappa_init_param)
        require_finite("method.final_lambda", self.final_lambda)
        require(self.k >= 1, f"method.k must be a whole number of at least 1, not {self.k}")
        require_finite("method.initial_lambda", self.initial_lambda)
        require(
            0 < self.decay_factor < 1,
            f"method.decay_factor must lie between 0 and 1 (0.1 divides λ by ten), "
            f"not {self.decay_factor:g}",
        )
        require_finite("method.cooldown", self.cooldown)
        require(
            self.raise_when_converged >= 0,
            f"method.raise_when_converged must be at least 0, not {self.raise_when_converged}",
        )


@dataclass
class BatchnormConfig:
    """Batch normalisation after each convolution, before its ReLU."""

    enabled: bool = MISSING
    """What batchnorm=on and batchnorm=off set."""


@dataclass
class AlphaConfig:
    """The percentage threshold α of Methods 1 and 3 (paper, Algorithms 2 and 4)."""

    percent: float = MISSING
    """α in percent: loss and error must be worse (or better) than their minimum by that much."""

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.percent) and self.percent >= 0,
            f"alpha is a percentage of at least 0, not {self.percent:g}: try alpha=5",
        )


@dataclass
class FixedLambdaConfig:
    """The constant λ of ``method=fixed``."""

    value: float = MISSING
    """λ; for SGD the same as a weight decay of 2λ."""

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.value) and self.value >= 0,
            f"fixed_lambda must be at least 0, not {self.value:g}: try fixed_lambda=5e-4",
        )


@dataclass
class ProtocolConfig:
    """Which reading of the paper's rules is meant (see README, "Protocols")."""

    name: str = MISSING
    """published (what drew the figures), pseudocode (as printed) or corrected (as meant)."""
    initialization: str = MISSING
    """published (convolutions N(0, 2/fan_in), the rest PyTorch's default) or paper (every layer
    N(0, 2/fan_in), every bias 0)."""
    lambda_min: float = 0.0
    """λ never falls below this."""
    lambda_max: float = math.inf
    """λ never rises above this."""

    def __post_init__(self) -> None:
        require_choice("protocol", self.name, PROTOCOLS)
        require_choice("protocol.initialization", self.initialization, INITIALIZATIONS)
        require_finite("protocol.lambda_min", self.lambda_min)
        require(
            self.lambda_max >= self.lambda_min,
            f"protocol.lambda_max must be at least protocol.lambda_min ({self.lambda_min:g}), "
            f"not {self.lambda_max:g}",
        )


@dataclass
class DataConfig:
    """A labelled image data set with a training and a test part."""

    source: str = MISSING
    """cifar10 (downloaded once), digits (ships with scikit-learn) or imagefolder (your files)."""
    name: str = MISSING
    """What the data are called in a run's identity; rename it to keep two image folders apart."""
    root: str | None = None
    """Where the files are: torchvision's folder for cifar10; one with train/ and test/ for
    imagefolder; unused by digits. Not part of a run's identity."""
    cache: str = MISSING
    """Folder for the decoded copy of an image folder. Not part of a run's identity."""
    url: str | None = None
    """Another address of the CIFAR-10 archive (a mirror); its checksum stays the same."""
    mean: float = 0.5
    """Taken off the pixels, which are scaled to [0, 1]."""
    std: float = 0.5
    """What they are divided by then."""

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, SOURCES)
        require(self.std > 0, f"data.std must be above 0, not {self.std:g}")


@dataclass
class ModelConfig:
    """The paper's network (section 4): two 3×3 convolutions and two dense layers."""

    width: int = 300
    """Filters of each convolution."""
    hidden: int = 500
    """Units of the first dense layer."""

    def __post_init__(self) -> None:
        require(self.width >= 1, f"model.width must be at least 1, not {self.width}")
        require(self.hidden >= 1, f"model.hidden must be at least 1, not {self.hidden}")


@dataclass
class PrecisionConfig:
    """What the arithmetic of the forward and backward pass is done in."""

    name: str = MISSING
    """fp32 (strict), tf32 (NVIDIA's, GPU only) or bf16 (autocast)."""

    def __post_init__(self) -> None:
        require_choice("precision", self.name, PRECISIONS)


@dataclass
class EvaluationConfig:
    """How often the test set is evaluated; the end of the last epoch always is."""

    every_epochs: int = 1
    """At the end of every n-th epoch."""
    every_steps: int = 0
    """And after every n-th step of an epoch (the paper's authors: 5); 0 for epochs only."""
    batch_size: int = 250
    """Images at a time."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 1, "evaluation.every_epochs must be at least 1")
        require(self.every_steps >= 0, "evaluation.every_steps must be at least 0")
        require(self.batch_size >= 1, "evaluation.batch_size must be at least 1")


@dataclass
class CheckpointConfig:
    """How often a running run is saved. It also is at the end and when it is interrupted."""

    every_steps: int = 0
    """Every n-th step of the run; 0 for the end of each epoch, as long as saving takes less than
    one hundredth of the time."""
    every_minutes: float = 5.0
    """And whenever this much time has passed since the last one."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 0, "checkpoint.every_steps must be at least 0")
        require(self.every_minutes > 0, "checkpoint.every_minutes must be above 0")


@dataclass
class ControlConfig:
    """Changes that test *why* a schedule helps (conf/experiment/explain.yaml)."""

    penalized: str = "all"
    """What the penalty covers: all parameters, weights (without biases and batch-norm's) or
    convolutions (their weights)."""
    parameters: str = "all"
    """What `scale` and `lr_factor` change: all, weights or convolutions."""
    scale: float = 1.0
    """Factor on these parameters at initialisation; the published Advance L2 run with batch-norm
    shrinks them by 0.084 (first attempt, product of 1 - lr·2λ)."""
    lr_factor: float = 1.0
    """Factor on these parameters' learning rate; their λ is divided by it, so that the decay per
    step stays. Below batch-norm, 1/scale² does what `scale` does."""
    pulse_height: float = 0.0
    """λ of the first `pulse_length` steps, before fixed_lambda."""
    pulse_length: int = 0
    """How many steps; 0 for no pulse."""

    def __post_init__(self) -> None:
        require_choice("control.penalized", self.penalized, PARAMETERS)
        require_choice("control.parameters", self.parameters, PARAMETERS)
        for name in ("scale", "lr_factor"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value > 0, f"control.{name} must be above 0, not {value:g}"
            )
        require_finite("control.pulse_height", self.pulse_height)
        require(
            self.pulse_length >= 0,
            f"control.pulse_length must be at least 0, not {self.pulse_length}",
        )


@dataclass
class LoggerConfig:
    """An experiment tracker that a run is shown to (see autol2/runs/trackers.py)."""

    name: str = "none"
    """none, tensorboard, wandb or mlflow."""
    project: str = "autol2"
    """The project of wandb, the experiment of mlflow."""
    mode: str = "offline"
    """wandb: offline keeps it in the run's folder for `wandb sync`, online sends it."""
    uri: str | None = None
    """mlflow: the tracking server; null for mlflow.db in the study's folder."""

    def __post_init__(self) -> None:
        require_choice("logger", self.name, list(LOGGERS))
        package = LOGGERS[self.name]
        require(
            package is None or importlib.util.find_spec(package) is not None,
            f"logger={self.name} needs the package {package}: pip install 'autol2[{self.name}]'",
        )


@dataclass
class RuleConfig:
    """What decides λ."""

    method: MethodConfig = MISSING
    alpha: AlphaConfig = MISSING
    fixed_lambda: FixedLambdaConfig = MISSING
    protocol: ProtocolConfig = MISSING

    def rule(self) -> Rule:
        """The rule that these options describe.

        Raises:
            UserError: the method decides without measurements.
        """
        require(
            self.method.name in METHODS,
            f"method={self.method.name} looks at no measurements: choose one of "
            f"{', '.join(METHODS)}",
        )
        return Rule(
            method=self.method.name,
            protocol=self.protocol.name,
            alpha=self.alpha.percent,
            fixed_lambda=self.fixed_lambda.value,
            initial_lambda=self.method.initial_lambda,
            decay_factor=self.method.decay_factor,
            cooldown=self.method.cooldown,
            lambda_min=self.protocol.lambda_min,
            lambda_max=self.protocol.lambda_max,
            raise_when_converged=self.method.raise_when_converged,
        )


@dataclass
class Config(RuleConfig):
    """One run, whole."""

    batchnorm: BatchnormConfig = MISSING
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    precision: PrecisionConfig = MISSING
    control: ControlConfig = field(default_factory=ControlConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    epochs: int = 200
    """Passes over the training set."""
    batch_size: int = 128
    """Images a step; the last batch of an epoch may be smaller and is used."""
    lr: float = 0.01
    """Learning rate."""
    seed: int = 0
    """Decides the initial weights and the order of the images."""
    study: str = "default"
    """Runs that belong together; the folder below `outputs`."""
    outputs: str = "outputs"
    """Where studies are kept."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice. The same count gives the same bits."""
    tune_malloc: bool = True
    """On Linux, keep freed memory in the process: fewer page faults, the same bits."""
    rerun: bool = False
    """Do a run over that is already finished."""

    def __post_init__(self) -> None:
        control, method = self.control, self.method.name
        require(
            control.pulse_length == 0 or method in ("fixed", "decoupled"),
            f"control.pulse_length needs method=fixed or method=decoupled, not method={method}",
        )
        require(
            method != "cpr" or (control.penalized == "all" and control.lr_factor == 1),
            "method=cpr chooses what it penalises: leave out control.penalized and "
            "control.lr_factor",
        )
        require(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        require(math.isfinite(self.lr) and self.lr > 0, f"lr must be above 0, not {self.lr:g}")
        require(self.seed >= 0, f"seed must be at least 0, not {self.seed}")
        require(self.seed < 2**63, f"seed must be below 2^63, not {self.seed}")
        require(self.threads >= 0, f"threads must be at least 0, not {self.threads}")
        study_name(self.study)
        require(self.outputs != "", "outputs= is empty: name a folder, as in outputs=outputs")
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            f"device={self.device} is not one of auto, cpu, cuda, cuda:N",
        )


def study_name(name: str) -> str:
    """`name` where it can be a study's folder name, else a `UserError`."""
    require(
        re.fullmatch(r"\w[\w.+-]*", name, re.ASCII) is not None,
        f"study={name} is not a plain name: use letters, digits, '.', '_', '+' and '-', "
        f"as in study=paper",
    )
    return name


def parse(cfg: DictConfig) -> Config:
    """The validated `Config` of a composed `cfg`; see `parse_as` for what it raises."""
    return parse_as(Config, cfg)


def parse_as(schema: type[Schema], cfg: DictConfig) -> Schema:
    """The validated instance of the dataclass `schema` of a composed `cfg`.

    Raises:
        UserError: a option has a value that makes no sense, or there is no such option.
        omegaconf.errors.OmegaConfBaseException: a option is missing or of the wrong type.
    """
    _refuse_unknown(cfg, schema)
    try:
        config = OmegaConf.to_object(cfg)
    except UserError as error:  # OmegaConf appends lines of its own
        raise UserError(str(error).splitlines()[0]) from None
    assert isinstance(config, schema)
    return config


def _refuse_unknown(cfg: DictConfig, schema: type, prefix: str = "") -> None:
    """Refuse keys that Hydra's ``+key=value`` put beside those of the schema."""
    types = get_type_hints(schema)
    for key in map(str, cfg):
        require(key in types, f"there is no option {prefix}{key!s}")
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and is_dataclass(types[key]):
            _refuse_unknown(node, types[key], f"{prefix}{key}.")


ConfigStore.instance().store(name="schema", node=Config)
