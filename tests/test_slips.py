"""What is easily typed wrong, and files that are damaged: one line, or what was meant."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from autol2.training.signals import TOGETHER, StopRequest

from .conftest import SMALL, Command, few

NET = """from torch import nn

def small(shape, classes, hidden=8):
    count = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(count, hidden), nn.Linear(hidden, classes))
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["seed=0,1"],
            "seed=0,1 gives several values, which makes this a sweep: python -m autol2",
        ),
        (["seed=range(0,2)"], "which makes this a sweep: python -m autol2.train -m"),
        (["study=null"], "a study needs a name"),
        (["+method=advance"], "leave out the +, as in method=advance"),
        (["--config-name=status"], "--config-dir FOLDER adds options of your own"),
        (["--package", "x"], "--package selects what --cfg shows: add --cfg"),
        (["--info", "nope"], "--info nope is not one of all, config"),
        (["--cfg=jobs"], "--cfg jobs is not one of job, hydra, all"),
        (["--shell-completion", "x"], "--shell-completion takes install=SHELL"),
        (["protocol=original", "method=combined"], "protocol original has no method combined"),
        (["-m", "protocol=original", "method=auto_l2,advance"], "protocol original has no method"),
        (["-m", "seed=range(0,2"], "range(…) is not written correctly"),
        (["-m", "seed=0,"], "ends in a comma"),
        (["-m", "study=a=b"], "is not a plain name"),
        (["-m", "seed=range(0,1e9)"], "has over 100,000 values"),
        (["-m", "seed=range(0,1000)", "epochs=range(1,1000)"], "the sweep has over 100,000"),
        (["-m", "study=sort(1.10,1.1)"], "list them in the order that you want"),
        (["-m", "study=shuffle(1.10,1.20)"], "list them in the order that you want"),
    ],
)
def test_what_is_easily_typed_wrong(
    run_command: Command, tmp_path: Path, words: list[str], said: str
) -> None:
    done = run_command("train", *words, "hydra.launcher.dry_run=true") if "-m" in words else None
    done = done or run_command("train", *words)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_a_report_has_one_study(run_command: Command) -> None:
    done = run_command("report", "study=a,b")
    assert done.returncode == 2
    assert "if you mean a single value, quote it twice" in done.stderr


def test_a_replay_of_a_protocol_without_the_method(run_command: Command) -> None:
    done = run_command("replay", "trace=x.csv", "method=combined", "protocol=original")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "protocol original has no method combined" in done.stderr


def test_an_interval_longer_than_an_epoch_is_refused(run_command: Command, tmp_path: Path) -> None:
    """Three steps an epoch, of which none is a fifth: λ would stay at 0.1 for ever."""
    done = run_command("train", "method=auto_l2", "data=digits", "batch_size=512", "outputs=here")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "an epoch has 3 steps, so method.measure_every=5 would never measure" in done.stderr
    assert not (tmp_path / "here").exists()


def test_help_of_hydra_takes_any_line(run_command: Command) -> None:
    done = run_command("train", "data=digits", "--hydra-help")
    assert done.returncode == 0
    assert "Hydra" in done.stdout


def test_options_of_a_folder_of_ones_own_are_known_to_messages(
    run_command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "conf" / "method"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("_target_: autol2.rules.methods.fixed.Fixed\n")
    own = ["--config-dir", str(tmp_path / "conf")]
    done = run_command("train", *own, "method=min")
    assert "mine" in done.stderr
    assert "did you mean method=mine?" in done.stderr
    assert "mine" in run_command("train", *own, "--help").stdout


# ---------------------------------------------------------------- code of one's own


def custom(hidden: str = "hidden") -> list[str]:
    return [
        *("model=custom", "model.target=ownnets:small", f"model.options.{hidden}=4"),
        *("data=digits", "epochs=1", "batch_size=256", "threads=1"),
    ]


def test_a_run_is_not_passed_off_as_one_of_changed_code(
    run_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "ownnets.py").write_text(NET)
    env = {"MODULES": str(tmp_path)}
    assert run_command("train", *custom(), **env).returncode == 0
    assert "already completed" in run_command("train", *custom(), **env).stdout
    (tmp_path / "ownnets.py").write_text(
        NET.replace("count, hidden)", "count, hidden, bias=False)")
    )
    for words in (custom(), ["-m", "seed=0,1", *custom()]):
        done = run_command("train", *words, **env)
        assert done.returncode == 2
        assert "was trained with an earlier version of ownnets: rerun=true" in done.stderr
    assert run_command("train", "rerun=true", *custom(), **env).returncode == 0
    assert "already completed" in run_command("train", *custom(), **env).stdout


def test_a_network_that_takes_no_such_option_is_no_traceback(
    run_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "ownnets.py").write_text(NET)
    done = run_command("train", *custom("hiden"), MODULES=str(tmp_path))
    assert done.returncode == 2
    assert "raised TypeError: small() got an unexpected keyword argument 'hiden'" in done.stderr
    assert not list((tmp_path / "outputs").rglob("train.log"))


def test_a_refused_run_leaves_no_folder(run_command: Command, tmp_path: Path) -> None:
    for place in range(8):
        part, label = ("train", "test")[place % 2], "ab"[place // 2 % 2]
        folder = tmp_path / "images" / part / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (30 * place, 0, 0)).save(folder / f"{place}.png")
    done = run_command("train", "data=imagefolder", f"data.root={tmp_path}/images", "method=fixed")
    assert done.returncode == 2
    assert "too small for this network" in done.stderr
    assert not (tmp_path / "outputs").exists()


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "state",
    few(
        [
            {"status": "completed"},
            {"status": 5, "attempts": [7], "updated": "x"},
            {"status": "failed", "attempts": 7},
            {"status": "running", "attempts": [], "updated": "x"},
            {"status": "completed", "attempts": [], "result": 3},
        ],
        2,
    ),
)
def test_a_run_json_that_cannot_be_used_is_no_result(
    run_command: Command, tmp_path: Path, state: dict[str, object]
) -> None:
    run_command("train", "method=fixed", *SMALL)
    (path,) = (tmp_path / "outputs").rglob("run.json")
    for command in (["status"], ["train", *SMALL, "method=fixed"], ["train", "-m", *SMALL]):
        path.write_text(json.dumps(state))
        if "-m" in command:
            command = [*command, "method=fixed", "seed=0"]
        done = run_command(*command)
        assert done.returncode == 0, done.stderr
        if command == ["status"]:
            assert "run.json cannot be read" in done.stdout
        else:
            assert json.loads(path.read_text())["status"] == "completed"
            assert "result" in json.loads(path.read_text())


def test_status_tells_of_a_damaged_manifest(run_command: Command, tmp_path: Path) -> None:
    run_command("train", "-m", "method=fixed", *SMALL, "seed=0")
    (path,) = (tmp_path / "outputs").rglob("study.json")
    path.write_text("[")
    done = run_command("status")
    assert "study.json cannot be read" in done.stdout + done.stderr
    assert "Runs that never started are not in this list" in done.stdout + done.stderr


def test_two_interrupts_at_once_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIG_DFL", signal.default_int_handler)  # not to die of it here
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        time.sleep(TOGETHER + 0.05)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
