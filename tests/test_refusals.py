"""What is refused in one line, with what to type instead: words, options and files of a user's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from autol2.cli import flags
from autol2.cli.composition import keep_text
from autol2.config import ControlConfig
from autol2.errors import UserError
from autol2.recipe.augmentations.flip_crop import FlipCrop
from autol2.recipe.lr_schedules.step import Step
from autol2.replay import read_trace
from autol2.runs.state import read_state
from autol2.sweeps import forkserver, sbatch
from autol2.sweeps.grid import choices
from autol2.sweeps.search import _distribution
from autol2.sweeps.study import records

from .conftest import PROJECT, SMALL, Command, composed, few

DRY = "hydra.launcher.dry_run=true"
SLURM = {**vars(sbatch.SlurmConf()), "_target_": ""}


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "-r", "seed=0,1"], "-m and -r cannot be combined"),
        (["--resolve", "seed=0"], "add --cfg, as in --cfg job"),
        (["--multirun=true", "seed=0"], "--multirun takes no value: write --multirun alone"),
        (["-h=1"], "-h takes no value"),
        (["-m", "hydra.mode=RUN", "seed=0"], "hydra.mode=RUN is not supported: -m makes a sweep"),
        (["++hydra.mode=MULTIRUN"], "-m makes a sweep"),
    ],
)
def test_flags_that_make_no_sense(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        flags.split(words)


def test_resolve_goes_with_cfg() -> None:
    assert flags.split(["--resolve", "--cfg", "job", "seed=0"])[1] == ["seed=0"]


@pytest.mark.parametrize(
    ("module", "words", "message"),
    few(
        [
            (
                "train",
                ("seed=0,1", "--cfg", "job"),
                "several values, but this command handles a single",
            ),
            ("status", ("-m", "study=a,b"), "-m: autol2.status makes no sweeps"),
            ("train", ("-m", "seed=0,1", "hydra.sweep.dir=/x"), "hydra.sweep.dir is not used here"),
            ("train", ("-m", "seed=range(0,1,0)"), "never ends: its step is 0"),
            ("train", ("-r", "seed=0,1"), "several values, but this command handles a single"),
            (
                "train",
                ("-m", "seed=0,1", "+hydra.job.env_set={A: 1}"),
                "hydra.job.env_set is not used here",
            ),
            (
                "train",
                ("-m", "seed=0,1", "hydra.job.chdir=true"),
                "hydra.job.chdir is not used here",
            ),
            ("train", ("hydra.run.dir=/x", *SMALL), "hydra.run.dir is not used here"),
            ("train", ("hydra=x",), "there is no option 'hydra'; --help explains them all"),
            ("report", ("seed=0",), "there is no option 'seed'; --help explains them all"),
            (
                "train",
                ("-m", *SMALL, "epochs=1,0,2", "hydra.sweeper.max_batch_size=1"),
                "epochs must be at least 1, not 0",
            ),
            (
                "train",
                ("-m", *SMALL, "hydra/sweeper=search", "lr=interval(0.01,0.1)", "seed=range(5,0)"),
                "seed=range(5,0) has no values",
            ),
        ],
        4,
    ),
)
def test_words_that_make_no_sense(
    run_command: Command, tmp_path: Path, module: str, words: tuple[str, ...], message: str
) -> None:
    done = run_command(module, *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not list((tmp_path / "outputs").rglob("run.json"))


def test_interpolations_of_hydras_own_work_in_a_sweep(run_command: Command, tmp_path: Path) -> None:
    words = "-m", "seed=0,1", "cuda_graph=auto,off", "study=${hydra:job.name}", *SMALL[:-2], DRY
    done = run_command("train", *words)
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 missing" in done.stdout
    assert "cuda_graph is not part of a run's identity" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    few(
        [
            (b"lr: [1\n", "mine.yaml, line 3: expected ',' or ']'"),
            (b"study: 'caf\xe9'\n", "mine.yaml is not encoded in UTF-8"),
            (b"\tlr: 1\n", "mine.yaml, line 2: found character"),
            (b"lr: 1\nlr: 2\n", "mine.yaml, line 3: found duplicate key lr"),
        ],
        2,
    ),
)
def test_a_file_that_is_no_yaml(
    run_command: Command, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(b"# @package _global_\n" + content)
    done = run_command("train", "-m", f"--config-dir={tmp_path}", "experiment=mine", "seed=0", DRY)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize("content", few(["lr: 1\n", "", "- 1\n"], 1))
def test_a_file_without_its_package(run_command: Command, tmp_path: Path, content: str) -> None:
    (tmp_path / "experiment" / "other.yaml").mkdir(parents=True)
    (tmp_path / "experiment" / "mine.yaml").write_text(content)
    words = "-m", f"--config-dir={tmp_path}", "seed=0", DRY
    done = run_command("train", *words, "experiment=mine")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "experiment/mine.yaml cannot be used" in line
    assert "must begin with the line # @package _global_" in line
    done = run_command("train", *words, "experiment=othe")
    assert "did you mean" not in done.stderr
    assert "other" not in done.stderr.replace("experiment=othe", "")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: ControlConfig(lr_factor=1e300), "control.lr_factor must be from 1e-6 to 1e6"),
        (lambda: ControlConfig(scale=1e-300), "control.scale must be from 1e-6 to 1e6"),
        (lambda: ControlConfig(pulse_height=1e300), "control.pulse_height must be from 0 to 1e"),
        (lambda: ControlConfig(pulse_height=-1), "control.pulse_height must be from 0"),
        (lambda: Step(factor=1e300), "lr_schedule.factor must be above 0 and at most 1e6"),
        (lambda: FlipCrop(padding=10**20), "augmentation.padding must be from 0 to 1024 pixels"),
    ],
)
def test_numbers_that_nobody_means(made: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"runs_per_job": 0}, "is not an option of sbatch: use hydra.launcher.runs_per_job"),
        ({"timeout_min": "abc"}, "use hydra.launcher.timeout_min"),
        ({"setup": "module load x"}, "use hydra.launcher.setup"),
        ({"exclude": ["n1", "n2"]}, "must be one word or number"),
        ({"cpus-per-task": 0}, "cpus_per_task must be at least 1, not 0"),
    ],
)
def test_others_that_are_none_of_sbatchs(others: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sbatch.check({**SLURM, "additional_parameters": others})


@pytest.mark.parametrize(("name", "value"), [("cpus_per_task", -4), ("mem_gb", -1)])
def test_less_than_nothing_is_not_asked_for(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name} must be at least"):
        sbatch.check({**SLURM, name: value})


def test_gpus_that_are_named_twice() -> None:
    options = {**SLURM, "gpus_per_node": 2, "additional_parameters": {"gres": "gpu:a100:1"}}
    names = sbatch.named(["hydra.launcher.gpus_per_node=2"], options)
    with pytest.raises(UserError, match="SLURM takes only one of"):
        sbatch.without_rivals(sbatch.check(options), names)


def test_text_within_braces_is_kept() -> None:

    config = OmegaConf.create(
        {"hydra": {"launcher": {"additional_parameters": {"reservation": 202401, "a": True}}}}
    )
    OmegaConf.set_readonly(config, True)
    keep_text(config, ["hydra.launcher.additional_parameters={reservation: 2024_01, a: true}"])
    assert config.hydra.launcher.additional_parameters == {"reservation": "2024_01", "a": True}


def test_a_range_is_searched_to_its_last_value() -> None:
    pytest.importorskip("optuna")
    override = OverridesParser.create().parse_override("lr=range(0.01,0.1,0.02)")
    found = _distribution(override)
    assert (found.low, found.step) == (0.01, 0.02)  # type: ignore[attr-defined]
    assert found.high == pytest.approx(0.09)  # type: ignore[attr-defined]
    assert len(choices(override)) == 5


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    "change",
    [
        {"attempts": [{"pid": "abc"}]},
        {"progress": [1]},
        {"config": 7},
        {"result": {"final_lambda": "x"}},
        {"result": {"final_lambda": {}}},
    ],
)
def test_a_run_json_of_another_shape_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    state = {"status": "completed", "attempts": [{}], "result": {"final_lambda": "NaN"}}
    (tmp_path / "run.json").write_text(json.dumps(state))
    assert read_state(tmp_path) == state
    (tmp_path / "run.json").write_text(json.dumps({**state, **change}))
    assert read_state(tmp_path) == {}


def test_a_study_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        records(tmp_path)


def test_a_file_where_a_detached_sweep_keeps_its_own(run_command: Command, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "s").mkdir(parents=True)
    (tmp_path / "outputs" / "s" / ".launch").touch()
    words = "-m", "seed=0,1", *SMALL, "study=s", "hydra.launcher.detach=true"
    done = run_command("train", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line


@pytest.mark.parametrize(
    "rows",
    ["0,5,inf,2.3,10\n", "-1,5,0.1,2.3,10\n", "0,0,0.1,2.3,10\n", "0,5,1,2,9\n0,-6,1,2,9\n"],
)
def test_a_trace_with_rows_that_nothing_measured(tmp_path: Path, rows: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(f"epoch,step,lambda,train_loss,train_accuracy\n{rows}")
    with pytest.raises(UserError, match=r"line [23]: .* is not a measurement"):
        read_trace(trace)


# ---------------------------------------------------------------- processes


def test_runs_of_a_server_that_died_are_not_waited_for() -> None:
    """Although another has taken its place by then."""
    server = forkserver.Server()
    server.start()
    assert server._process is not None
    first = server._process
    orphan = subprocess.Popen([sys.executable, "-c", "pass"])
    server._children.add(orphan.pid)
    assert server.poll(orphan.pid) is None
    first.kill()
    first.wait()
    server._forget()
    server.start()
    try:
        end = time.monotonic() + 30
        while (status := server.poll(orphan.pid)) is None:  # a zombie, as nobody has buried it
            assert time.monotonic() < end
            time.sleep(0.05)
        assert status == -signal.SIGKILL
    finally:
        orphan.wait()
        server._forget()


@pytest.mark.slow
def test_a_detached_sweep_stops_as_one_on_a_terminal_does(tmp_path: Path) -> None:
    words = "-m", "seed=0,1,2", *SMALL, "epochs=400", "study=s", f"outputs={tmp_path}"
    how = "hydra.launcher.n_jobs=1", "hydra.launcher.detach=true"

    def run(module: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"autol2.{module}", *arguments],
            cwd=PROJECT,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    said = run("train", *words, *how)
    pid = int(said.partition("in process ")[2].partition(";")[0])
    end = time.monotonic() + 90
    while "1 running" not in (shown := run("status", "study=s", f"outputs={tmp_path}")):
        assert time.monotonic() < end, shown
    assert f"in the background, in process {pid}" in shown
    os.kill(pid, signal.SIGTERM)
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    states = [read_state(one.parent) for one in (tmp_path / "s").glob("*/run.json")]
    assert [one["status"] for one in states] == ["interrupted"]


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=mlp", "model.widths=64"], "model.widths is a list: write model.widths=[VALUE]"),
        (["model=mlp", "model.widths={a:1}"], "model.widths={a:1} is of the wrong kind"),
        (["optimizer=adamw", "optimizer.betas=0.9"], "optimizer.betas is a list: write"),
        (["lr_schedule=step", "lr_schedule.milestones=0.5"], "lr_schedule.milestones is a list"),
        (["model=resnet18", "model.width=3"], "model=resnet18 has no option 'width'; it has none"),
        (["model=resnet18", "++model.width=3"], "no option model.width: this model has none"),
        (["data.mean=[0.5,0.5]"], "data.mean has 2 values, but the images have 3 channels"),
        (["data.std=[0.25,0.25,0.25,0.25]"], "data.std has 4 values, but the images have 3 chan"),
        (
            ["-m", "experiment=original_1a", "fixed_lambda=0,1e-3", DRY],
            "error: a training length in",
        ),
        (
            ["model=torchvision", "model.builder=nosuch"],
            "torchvision has no network model.builder=",
        ),
        (["model=torchvision", "model.builder=alexnet"], "; the network needs larger images"),
        (["model=torchvision", "model.builder=vit_b_16"], "try model.options.image_size=32"),
    ],
)
def test_recipes_that_make_no_sense(
    run_command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    done = run_command("train", *words, "data=digits", f"outputs={tmp_path}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_torchvisions_warnings_are_not_the_users(run_command: Command, tmp_path: Path) -> None:
    words = ("model=torchvision", "model.builder=googlenet", "data=digits")
    done = run_command("train", *words, f"outputs={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: model.builder=googlenet returns GoogLeNetOutputs for 2 images [N, 3, 32, 32], not "
        "scores [2, 10]; try model.options.aux_logits=false"
    ]


def test_a_mean_for_each_channel_may_be_the_same(run_command: Command, tmp_path: Path) -> None:
    """And is the same run then."""
    words = (*SMALL, "epochs=1", f"outputs={tmp_path}")
    first = run_command("train", *words)
    assert first.returncode == 0, first.stderr
    again = run_command("train", *words, "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]")
    assert "already completed" in again.stdout


@pytest.mark.parametrize("experiment", ["original_1a", "original_1b", "original_1c", "original_2"])
@pytest.mark.parametrize("size", [(), ("size=small",)])
def test_the_original_experiments_take_other_networks_data_and_optimizers(
    experiment: str, size: tuple[str, ...]
) -> None:
    words = (f"experiment={experiment}", *size)
    for model in ("resnet18", "mlp"):
        config = composed(*words, f"model={model}", "optimizer=adamw", "data=svhn")
        assert (config.model.name, config.optimizer.name) == (model, "adamw")
        assert config.data.mean == [0.4377, 0.4438, 0.4728]  # SVHN's own, not CIFAR-10's
    config = composed(*words)
    assert (config.model.name, config.data.mean, config.data.std) == ("wrn", 0.4734, 0.2516)
    assert vars(config.model)["shortcut_kernel"] == 3
    assert vars(config.optimizer)["momentum"] == (0.0 if experiment == "original_2" else 0.9)
