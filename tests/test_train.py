"""The train command as a user meets it: real processes, real files."""

from __future__ import annotations

import csv
import json
import os
import pty
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from autol2.cli.command import CONF
from autol2.config import parse
from autol2.data import dataset as data
from autol2.errors import UserError
from autol2.runs.run import Run
from autol2.train import train
from autol2.training.attempt import attempt

from .conftest import PROJECT, SMALL, Command, few

METHODS = ("fixed", "auto_l2", "threshold", "advance", "combined")


def only_run(outputs: Path, study: str = "default") -> Path:
    (folder,) = (path.parent for path in (outputs / study).glob("*/run.json"))
    return folder


def state(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing torch is an error."""
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "torch.py").write_text("raise RuntimeError('torch was imported')\n")
    return {"PYTHONPATH": str(poison)}


def test_a_run_leaves_its_records(run_command: Command, tmp_path: Path) -> None:
    done = run_command("train", "method=combined", "alpha=5", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = only_run(tmp_path / "outputs")
    assert re.fullmatch(r"combined-a5-nobn-s0-[0-9a-f]{10}", folder.name)
    names = {path.name for path in folder.iterdir()}
    assert {"run.json", "measurements.csv", "epochs.csv", "train.log", "checkpoint.pt"} <= names
    run = state(folder)
    assert run["status"] == "completed"
    assert run["seed"] == 0
    assert run["steps_per_epoch"] == 23
    assert run["config"]["alpha"]["percent"] == 5
    assert set(run["result"]) >= {
        "final_test_accuracy",
        "best_test_accuracy",
        "mean_last_tenth",
    }
    (attempt,) = run["attempts"]
    assert attempt["why"] == "completed"
    assert attempt["threads"] == 1
    assert attempt["versions"]["torch"]
    lines = (folder / "measurements.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,step,lambda,train_loss,train_accuracy,event")
    assert len(lines) == 1 + 2 * 4  # 23 steps an epoch, k = 5
    # Plain lines, since the output is no terminal.
    assert re.search(r"^epoch 2/2  loss \d\.\d+  λ \S+  test \d+\.\d\d %", done.stdout, re.M)
    assert done.stdout.splitlines()[-1].startswith("completed: test accuracy")
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_a_terminal_gets_a_progress_bar(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "autol2.train", *SMALL, f"outputs={tmp_path}"],
        cwd=PROJECT,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert "━" in text
    assert re.search(r"epoch 2/2", text)
    assert re.search(r"loss \d\.\d+ +λ \S+ +test \d+\.\d\d %", text)


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_it(tmp_path: Path) -> None:
    """As in ``… | head -1``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "autol2.train", *SMALL, "epochs=30", f"outputs={tmp_path}"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    assert b"training 690 steps" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert process.stderr.read() == b""
    assert state(only_run(tmp_path))["status"] == "completed"


def test_what_a_method_does_not_use_is_told(run_command: Command) -> None:
    done = run_command("train", "fixed_lambda=1e-3", "alpha=7", *SMALL)
    assert done.stdout.splitlines()[:2] == [
        "warning: method=auto_l2 does not use alpha",
        "warning: method=auto_l2 does not use fixed_lambda",
    ]
    assert "warning" not in run_command("train", "method=combined", "alpha=7", *SMALL).stdout


def test_a_run_that_another_process_ends_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = parse(compose("config", [*SMALL, f"outputs={tmp_path}"]))
    late = Run(config)
    assert train(config) == 0
    capsys.readouterr()
    assert attempt(late, data.load(config.data), torch.device("cpu")) == 0
    assert capsys.readouterr().out.startswith(f"{late.folder}: already completed: test accuracy")


def test_outputs_must_be_named() -> None:
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(UserError, match="outputs= is empty: name a folder"),
    ):
        parse(compose("config", [*SMALL, "outputs="]))


def test_letters_of_any_language_and_flags_in_any_place(
    run_command: Command, tmp_path: Path
) -> None:
    done = run_command("train", *SMALL, "-m", "seed=0,1", outputs=tmp_path / "größe λ")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "größe λ").glob("*/*/run.json"))) == 2
    words = "lr=0.5", "--cfg", "job", "-p", "evaluation", "evaluation.every_steps=7", "--resolve"
    shown = run_command("train", *words)
    assert shown.returncode == 0, shown.stderr
    assert "every_steps: 7" in shown.stdout.splitlines()


def test_same_seed_same_bits(run_command: Command, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        outputs = tmp_path / name
        done = run_command("train", "batchnorm=on", f"seed={seed}", *SMALL, outputs=outputs)
        assert done.returncode == 0
        folder = only_run(outputs)
        contents.append(
            [(folder / file).read_bytes() for file in ("measurements.csv", "epochs.csv")]
            + [state(folder)["result"]]
        )
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_a_finished_run_is_recognised_without_torch(
    run_command: Command, tmp_path: Path, without_torch: dict[str, str]
) -> None:
    first = run_command("train", "alpha=7.5", "method=threshold", *SMALL)
    assert first.returncode == 0
    folder = only_run(tmp_path / "outputs")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    again = run_command(
        "train", "method=threshold", "alpha.percent=7.5", "device=cpu", *SMALL, **without_torch
    )
    assert again.returncode == 0, again.stderr
    assert "already completed: test accuracy" in again.stdout
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_rerun_does_it_over_and_keeps_the_old(run_command: Command, tmp_path: Path) -> None:
    assert run_command("train", *SMALL).returncode == 0
    folder = only_run(tmp_path / "outputs")
    old = (folder / "run.json").read_bytes()
    figures = (folder / "epochs.csv").read_bytes()
    assert run_command("train", "rerun=true", *SMALL).returncode == 0
    (kept,) = folder.glob("replaced-*")
    assert (kept / "run.json").read_bytes() == old
    assert (kept / "epochs.csv").read_bytes() == figures == (folder / "epochs.csv").read_bytes()
    assert len(state(folder)["attempts"]) == 1


@pytest.mark.slow
def test_every_method_and_protocol_runs(run_command: Command, tmp_path: Path) -> None:
    sweep = "method=" + ",".join(METHODS), "protocol=published,pseudocode,corrected"
    done = run_command("train", "-m", *sweep, "batchnorm=on", *SMALL, "epochs=1")
    assert done.returncode == 0, done.stderr + done.stdout
    states = [state(path.parent) for path in (tmp_path / "outputs").glob("*/*/run.json")]
    # pseudocode and corrected initialise alike, which is all that fixed takes of a protocol
    assert len(states) == 14
    assert {run["status"] for run in states} <= {"completed", "diverged"}


def test_pseudocode_diverges_as_printed(run_command: Command, tmp_path: Path) -> None:
    done = run_command("train", "protocol=pseudocode", "method=combined", "alpha=5", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "diverged: the loss is not finite at step" in done.stdout
    folder = only_run(tmp_path / "outputs")
    run = state(folder)
    assert run["status"] == "diverged"
    assert run["diverged"]["lambda"] >= 1000
    assert 20 < run["diverged"]["step"] <= 46
    again = run_command("train", "protocol=pseudocode", "method=combined", "alpha=5", *SMALL)
    assert "already diverged" in again.stdout
    replayed = run_command(
        "replay",
        f"trace={folder / 'measurements.csv'}",
        "method=combined",
        "alpha=5",
        "protocol=pseudocode",
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


@pytest.mark.parametrize(
    ("method", "protocol"),
    few(
        [
            ("combined", "published"),
            ("auto_l2", "corrected"),
            ("advance", "published"),
            ("auto_l2", "published"),
            ("advance", "corrected"),
            ("combined", "corrected"),
        ],
        2,
    ),
)
def test_its_own_measurements_replay(
    run_command: Command, tmp_path: Path, method: str, protocol: str
) -> None:
    options = f"method={method}", f"protocol={protocol}", "alpha=2"
    done = run_command("train", *options, *SMALL, "lr=0.05", "epochs=4", "batch_size=16")
    assert done.returncode == 0, done.stderr
    trace = only_run(tmp_path / "outputs") / "measurements.csv"
    assert len({line.split(",")[2] for line in trace.read_text().splitlines()[1:]}) > 1
    replayed = run_command("replay", f"trace={trace}", *options)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert re.search(r"agrees with the recorded lambda: (\d+)/\1 measurements", replayed.stdout)


NUMBERS = [
    (["alpha=7.5"], [7.5]),
    (["-m", "alpha=range(0,15,5)"], [0, 5, 10]),
    (["-m", "alpha=zero,five"], [0, 5]),
    (["fixed_lambda=5e-4"], [0.0005]),
    (["alpha=5"], [5]),
    (["alpha=0"], [0]),
    (["alpha=ten"], [10]),
    (["-m", "alpha=0,5,10"], [0, 5, 10]),
    (["-m", "alpha=glob(*)"], [0, 5, 10]),
    (["fixed_lambda=0.0005"], [0.0005]),
    (["fixed_lambda=weak"], [1e-5]),
    (["-m", "fixed_lambda=0,1e-5,1e-4,5e-4"], [0, 1e-5, 1e-4, 5e-4]),
]


@pytest.mark.parametrize(("overrides", "values"), few(NUMBERS, 4))
def test_numbers_and_names_for_groups(
    run_command: Command, tmp_path: Path, overrides: list[str], values: list[float]
) -> None:
    group = "alpha" if "alpha" in overrides[-1] else "fixed_lambda"
    method = "threshold" if group == "alpha" else "fixed"
    done = run_command("train", *overrides, f"method={method}", *SMALL, "epochs=1")
    assert done.returncode == 0, done.stderr
    states = [state(path.parent) for path in (tmp_path / "outputs").glob("*/*/run.json")]
    option = "percent" if group == "alpha" else "value"
    assert sorted(run["config"][group][option] for run in states) == values


def test_the_best_epoch_is_chosen_on_validation_images(
    run_command: Command, tmp_path: Path
) -> None:
    done = run_command("train", *SMALL, "epochs=12", "lr=0.05", "data.validation=40")
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "outputs")
    with (folder / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    result = state(folder)["result"]
    best = max(rows, key=lambda row: float(row["validation_accuracy"]))
    assert result["best_epoch"] == int(best["epoch"])
    assert result["best_test_accuracy"] == float(best["test_accuracy"])
    assert result["mean_last_tenth"] == float(rows[-1]["test_accuracy"])  # one of twelve
    assert result["mean_last_tenth_validation"] == float(rows[-1]["validation_accuracy"])


def test_config_is_shown_without_running(run_command: Command, tmp_path: Path) -> None:
    done = run_command("train", "--cfg", "job", "alpha=7.5")
    assert done.returncode == 0
    assert "percent: 7.5" in done.stdout
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("autol2-train meth", "method. method="),
        ("autol2-train alpha=5 batchnorm=", "batchnorm=off batchnorm=on"),
        ("autol2-train alpha=7.5 fixed_lambda=5e-4 alp", "alpha. alpha="),
        ("python -m autol2.train alpha=5 model.w", "model.width="),
    ],
)
def test_shell_completion(run_command: Command, line: str, expected: str) -> None:
    done = run_command("train", "-sc", "query=bash", COMP_LINE=line)
    assert done.returncode == 0
    assert done.stdout.split() == expected.split()


BAD = [
    (["hydra.launcher.dry_run=true"], "is for a sweep: put -m after autol2.train"),
    (["seed=99999999999999999999"], "seed must be below 2^63"),
    (["method="], "method= does not exist: choose from advance, auto_l2"),
    (["demo"], "'demo' is not a valid option: options are written as NAME=VALUE"),
    (["alpha=-1"], "alpha is a percentage of at least 0, not -1: try alpha=5"),
    (["alpha=nan"], "alpha is a percentage of at least 0, not nan: try alpha=5"),
    (["alpha=foo"], "alpha=foo is neither a number nor one of five, ten, zero"),
    (["alpha=5,five"], "alpha=5,five mixes numbers and names: use one or the other"),
    (["fixed_lambda=-1e-4"], "fixed_lambda must be at least 0, not -0.0001: try"),
    (["method=fixd"], "did you mean method=fixed?"),
    (["method=5"], "method=5 does not exist: choose from"),
    (["batchnorm=yes"], "batchnorm=yes does not exist: choose from off, on"),
    (["precision=fp16"], "precision=fp16 does not exist: choose from bf16, fp32, tf32"),
    (["protocol=publish"], "did you mean protocol=published?"),
    (["epohcs=3"], "there is no option 'epohcs'; did you mean epochs?"),
    (["width=3"], "there is no option 'width'; did you mean model.width?"),
    (["method.kk=3"], "method=auto_l2 has no option 'kk'; did you mean method.k?"),
    (["+foo=3"], "there is no option foo"),
    (["+model.depth=3"], "there is no option"),
    (["epochs=abc"], "epochs: value 'abc' of type 'str' could not be converted to Integer"),
    (["epochs=null"], "epochs needs a value: epochs=…"),
    (
        ["study=[a]"],
        "study is text: to use brackets literally, quote the value twice, as in 'study",
    ),
    (["study={a:1}"], "study is text: to use brackets literally, quote the value twice"),
    (["epochs=0"], "epochs must be at least 1, not 0"),
    (["seed=1.5"], "seed: value '1.5' of type 'float' could not be converted to Integer"),
    (["seed=-1"], "seed must be at least 0, not -1"),
    (["lr=0"], "lr must be above 0, not 0"),
    (["lr=nan"], "lr must be above 0, not nan"),
    (["batch_size=0"], "batch_size must be at least 1, not 0"),
    (["batch_size=99999"], "an epoch has 1 steps, so method.measure_every=5 would never"),
    (["method.measure_every=24"], "an epoch has 23 steps, so method.measure_every=24 would"),
    (["method.k=0"], "method.measure_every must be a whole number of at least 1, not 0"),
    (["method.decay_factor=1"], "method.decay_factor must lie between 0 and 1"),
    (["method.decay_factor=0"], "method.decay_factor must lie between 0 and 1"),
    (["method.initial_lambda=-1"], "method.initial_lambda must be a number of at least 0"),
    (["method.cooldown=inf"], "method.cooldown must be a number of at least 0, not inf"),
    (["protocol.lambda_max=-1"], "protocol.lambda_max must be at least protocol.lambda_min"),
    (["model.width=0"], "model.width must be at least 1, not 0"),
    (["study=../../x"], "study=../../x is not a plain name"),
    (["study=.hidden"], "study=.hidden is not a plain name"),
    (["device=gpu"], "device=gpu is not one of auto, cpu, cuda, cuda:N"),
    (["device=cuda:99"], "device=cuda:99: this machine has"),
    (["precision=tf32", "device=cpu"], "precision=tf32 needs an NVIDIA GPU"),
    (["data=imagefolder"], "data.root=FOLDER"),
    (["data=imagefolder", "data.root=/nowhere"], "/nowhere"),
    (["epochs=["], "error:"),
    (["word"], "error:"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=lambda x: str(x)[:40])
def test_bad_input(
    run_command: Command, tmp_path: Path, overrides: list[str], message: str
) -> None:
    small = [
        word for word in SMALL if word.partition("=")[0] not in {o.split("=")[0] for o in overrides}
    ]
    multirun = ["-m"] if "," in overrides[0] else []
    done = run_command("train", *multirun, *small, *overrides)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "outputs").exists()


def test_an_empty_home_is_none(run_command: Command) -> None:
    """As with other folders: ~/x does not lie at the root of all."""
    shown = run_command("train", "--cfg", "job", HOME="", outputs=Path("~/there"))
    assert f"outputs: {pwd.getpwuid(os.getuid()).pw_dir}/there\n" in shown.stdout


@pytest.mark.parametrize("place", ["/proc/autol2", "file", "file/below"])
def test_outputs_that_cannot_be_written(run_command: Command, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    outputs = tmp_path / place
    done = run_command("train", *SMALL, outputs=outputs)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert re.match(r"error: \S+ cannot be written \(.+\): .*outputs=FOLDER", done.stderr)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
def test_other_images_under_the_same_name(run_command: Command, tmp_path: Path) -> None:
    """A result is not passed off as that of other images; the same ones elsewhere are welcome."""
    for folder, shade in (("one", 10), ("other", 20)):
        for part in ("train", "test"):
            for number, label in enumerate("ab"):
                image = Image.new("RGB", (10, 10), (shade, 100 * number, 0))
                path = tmp_path / folder / part / label / "1.png"
                path.parent.mkdir(parents=True)
                image.save(path)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    options = "data=imagefolder", "method=fixed", f"data.cache={tmp_path / 'cache'}", *SMALL[1:]

    def train(folder: str, *more: str) -> subprocess.CompletedProcess[str]:
        return run_command("train", *options, f"data.root={tmp_path / folder}", *more)

    assert train("one").returncode == 0
    assert "already completed" in train("copy").stdout
    other = train("other")
    assert other.returncode == 2
    assert "was trained on different data" in other.stderr
    assert train("other", "data.name=other").returncode == 0


def test_outputs_on_a_read_only_disk(run_command: Command, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a read-only file system takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], check=True)
    try:
        done = run_command("train", *SMALL, outputs=disk / "outputs")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written (Read-only file system): choose another folder" in done.stderr
