"""What a sweep's runs are (hydra/sweeper=grid), and a search (hydra/sweeper=search).

The launcher is replaced, so that nothing is trained but where a test says so.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from autol2.cli import command as commands
from autol2.cli.composition import restored
from autol2.errors import UserError
from autol2.runs.state import read_state
from autol2.sweeps.launcher import Failed, StudyLauncher, _unlike_first
from autol2.sweeps.task import Task

from .conftest import SMALL, Command, few

Sweep = Callable[..., list[Task]]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sweep]:
    """Plan a sweep as the command line has it; the tasks, in order."""
    seen: list[Task] = []

    def act(self: StudyLauncher, wanted: list[Task]) -> None:
        seen.extend(self.tasks)

    monkeypatch.setattr("autol2.sweeps.local_launcher.LocalLauncher._act", act)
    monkeypatch.setattr(StudyLauncher, "_sum_up", lambda *_: None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("autol2.sweeps.launcher.remember", lambda entries: list(entries))

    def plan(*words: str) -> list[Task]:
        seen.clear()
        arguments = ["train", "-m", *words, f"outputs={tmp_path}"]
        monkeypatch.setattr("sys.argv", arguments)
        GlobalHydra.instance().clear()
        commands._run(lambda cfg: 0, "config")
        return list(seen)

    yield plan
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def option(tasks: list[Task], name: str) -> list[Any]:
    return [OmegaConf.select(OmegaConf.create(task.config), name) for task in tasks]


def test_every_combination(sweep: Sweep) -> None:
    tasks = sweep("seed=0,1", "lr=0.1,0.2", "epochs=3")
    assert [(task.config["seed"], task.config["lr"]) for task in tasks] == [
        *((0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)),
    ]
    assert option(tasks, "epochs") == [3] * 4
    assert len({task.folder for task in tasks}) == 4


def test_text_of_a_sweep_is_kept(sweep: Sweep) -> None:
    tasks = sweep("study=1.10,1.1,2024_01")
    assert option(tasks, "study") == ["1.10", "1.1", "2024_01"]
    assert [task.study.name for task in tasks] == ["1.10", "1.1", "2024_01"]
    assert option(sweep("study=choice(1.10,x)"), "study") == ["1.10", "x"]


def test_resolved_once(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's usual idiom: one time for all runs, and a command that means this very run."""
    tasks = sweep("study=m-${now:%H-%M-%S-%f}", "seed=0,1,2")
    studies = {task.study.name for task in tasks}
    assert len(studies) == 1
    (study,) = studies
    assert "$" not in study
    assert f'study="{study}"' in tasks[0].overrides
    assert restored(tasks[2].config).seed == 2
    json.dumps(tasks[0].config)


@pytest.mark.slow
def test_several_experiments(sweep: Sweep) -> None:
    both = {task.folder for task in sweep("experiment=alpha,decay_factor", "seed=0")}
    apart = {
        task.folder
        for one in ("alpha", "decay_factor")
        for task in sweep(f"experiment={one}", "seed=0")
    }
    assert both == apart
    assert len(both) > 10


@pytest.mark.parametrize("words", few(["glob(lambda*)", "choice(lambda_max)"], 1))
def test_an_experiment_that_is_the_only_one_to_choose(sweep: Sweep, words: str) -> None:
    """Its own sweep counts, as where it is named."""
    plain = {task.folder for task in sweep("experiment=lambda_max", "seed=0")}
    assert {task.folder for task in sweep(f"experiment={words}", "seed=0")} == plain
    assert len(plain) > 10


def test_a_message_names_what_the_run_has(sweep: Sweep) -> None:
    """And not what the command line would choose by itself."""
    named = {"experiment=glob(original_1*)": "wrn_original", "model=wrn,resnet18": "wrn"}
    for choice, model in named.items():
        with pytest.raises(Exception, match="hidden") as caught:
            sweep(choice, "model.hidden=8")
        said = commands.explain(caught.value, "config")
        assert said is not None
        assert said.startswith(f"model={model} has no option 'hidden': depth, dropout, ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["hydra/sweeper=search", "experiment=choice(alpha)", "lr=0.1,1"],
            "a search takes one exp",
        ),
        pytest.param(["experiment=glob(*)"], "applies to the whole sweep", marks=pytest.mark.slow),
        (["experiment=alpha,search_alpha"], "experiment=search_alpha sets hydra.sweeper"),
        (["lr=interval(0,1)"], "needs a search: use hydra/sweeper=search"),
        (["seed=range(0)"], "there is nothing to sweep over"),
        (["data.root=/a,/b"], "several data.root would count as the same runs under one data.name"),
        (["hydra.sweeper.max_batch_size=0"], "hydra.sweeper.max_batch_size must be at least 1"),
        (["hydra.sweeper.max_batch_size=-1", "seed=0,1"], "must be at least 1"),
        (
            ["hydra.sweeper.max_batch_size=1", "hydra.launcher.detach=true", "seed=0,1"],
            "hydra.sweeper.max_batch_size waits for each batch",
        ),
        (["+hydra.launcher.foo=1"], "there is no option hydra.launcher.foo"),
        (["+hydra.launcher.n_job=1"], "did you mean hydra.launcher.n_jobs?"),
        (["experiment=search_alpha", "study=a,b"], "a search takes one study, not study=a,b"),
        (["experiment=search_alpha", "hydra.sweeper.n_trials=0"], "n_trials must be at least 1"),
        (["experiment=search_alpha", "hydra.sweeper.n_jobs=0"], "n_jobs must be at least 1"),
        (["hydra/sweeper=search", "lr=0.1"], "there is nothing to search"),
        (
            ["experiment=search_alpha", "hydra.launcher.dry_run=true"],
            "a search needs the results of its",
        ),
        (
            ["experiment=search_alpha", "hydra.launcher.detach=true"],
            "a search needs the results of its",
        ),
        (
            ["experiment=search_alpha", "hydra.sweeper.storage=foo://x"],
            "trials cannot be stored in",
        ),
        (["experiment=search_alpha", "hydra.sweeper.storage=/dev/full"], "full: it is not a file"),
        (["experiment=search_alpha", "hydra.sweeper.storage=/proc/x"], "in /proc/x: [Errno 2]"),
        (["experiment=search_alpha", "hydra.sweeper.sampler.seed=-1"], "at least 0 and below 2^31"),
        (["experiment=search_alpha", "hydra.sweeper.sampler.seed=2147483648"], "below 2^31"),
        (["experiment=search_alpha", "hydra/launcher=basic"], "=basic does not support studies"),
        (["seed=0,1", "hydra/launcher=basic"], "a sweep needs submitit_local, submitit_slurm or"),
    ],
)
def test_refused(sweep: Sweep, words: list[str], message: str) -> None:
    with pytest.raises(Exception, match="") as caught:
        sweep(*words)
    said = commands.explain(caught.value, "config")
    assert said is not None
    assert message in said
    assert "\n" not in said


def test_an_option_that_only_some_choices_have(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = sweep("method=fixed,combined", "method.decay_factor=0.5", "seed=0,1")
    assert option(tasks, "method.decay_factor") == [None, None, 0.5, 0.5]
    said = capsys.readouterr().out
    assert said.count("method=fixed has no option decay_factor: left out for its runs") == 1
    with pytest.raises(Exception, match="decay_factr"):
        sweep("method=fixed,combined", "method.decay_factr=0.5")


def test_what_is_no_part_of_the_identity_is_told(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("device=cpu,auto", "threads=1,2")
    said = capsys.readouterr().out
    told = " are not part of a run's identity"
    assert f"threads, device{told}" in said or f"device, threads{told}" in said
    assert "1 run: 1 missing" in said
    sweep("method=fixed", "alpha=0,5")
    assert "not part of a run's identity" not in capsys.readouterr().out


def test_batches_go_on_after_one_that_failed(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def fail(self: StudyLauncher, tasks: list[Task], wanted: list[Task]) -> None:
        batches.append(len(tasks))
        raise Failed("no result")

    monkeypatch.setattr(StudyLauncher, "_sum_up", fail)
    with pytest.raises(Failed):
        sweep("seed=range(5)", "hydra.sweeper.max_batch_size=2")
    assert batches == [2, 2, 1]


def test_the_first_runs_are_unlike_each_other(sweep: Sweep) -> None:
    """If they fail alike, no single choice can be blamed for it."""
    first = _unlike_first(sweep("precision=tf32,fp32,bf16", "lr=0.1,0.2,0.3", "seed=range(3)"))[:3]
    for name in ("precision.name", "lr", "seed"):
        assert len(set(option(first, name))) == 3


def test_rerun(sweep: Sweep, tmp_path: Path) -> None:
    (task,) = sweep("rerun=true")
    folder = Path(task.folder)
    folder.mkdir(parents=True)
    result = {"final_test_accuracy": 1.0}
    done = {"status": "completed", "updated": 5.0, "attempts": [{}], "result": result}
    (folder / "run.json").write_text(json.dumps(done))
    (again,) = sweep("rerun=true")
    assert again.updated == 5.0
    assert not again.finished(again.state)
    assert again.finished({**done, "updated": 6.0})
    assert sweep("rerun=false") == []


def accurate(state: dict[str, Any]) -> Callable[..., None]:
    """In place of training: accuracy is highest at α = 20; some runs fail."""

    def act(self: StudyLauncher, wanted: list[Task]) -> None:
        for task in wanted:
            alpha, seed = task.config["alpha"]["percent"], task.config["seed"]
            folder = Path(task.folder)
            folder.mkdir(parents=True)
            result = {"mean_last_tenth": 90 - abs(alpha - 20) + seed, "final_test_accuracy": 1}
            found = {"status": "completed", "result": result, "updated": 1.0, "attempts": [{}]}
            if state["fails"](alpha):
                found = {"status": "failed", "error": "bad luck", "attempts": [{}], "updated": 1.0}
            (folder / "run.json").write_text(json.dumps(found))
            if task.config["method"]["_target_"].endswith(".Fixed"):  # what it is compared with
                state["rivals"].append((task.config["fixed_lambda"]["value"], seed))
                continue
            state["runs"].append((alpha, seed))
            if len(state["runs"]) == state.get("stop"):
                raise KeyboardInterrupt

    return act


def searching(monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"runs": [], "rivals": [], "fails": lambda alpha: False, **more}
    monkeypatch.setattr("autol2.sweeps.local_launcher.LocalLauncher._act", accurate(state))
    return state


def test_a_search_stopped_and_continued_is_the_search_never_stopped(
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "experiment=search_alpha", "hydra.sweeper.n_trials=12"
    whole = searching(monkeypatch)
    sweep(*words, "study=whole")
    assert len(whole["runs"]) == 12
    said = capsys.readouterr().out.splitlines()[-1]
    best = json.loads((tmp_path / "whole/search.json").read_text())
    alpha = best["best_params"]["alpha.percent"]
    assert (
        best["best_value"]
        == 90 - abs(alpha - 20)
        == max(90 - abs(a - 20) for a, _ in whole["runs"])
    )
    assert said.startswith(f"best of 12 trials: alpha.percent={alpha:.6g} with ")
    assert str(tmp_path / "whole/search.journal") in said
    parts = searching(monkeypatch, stop=6)
    with pytest.raises(KeyboardInterrupt):
        sweep(*words, "study=parts")
    sweep(*words, "study=parts")
    assert parts["runs"] == whole["runs"]
    sweep(*words, "study=parts")
    assert len(parts["runs"]) == 12
    sweep(words[0], "hydra.sweeper.n_trials=14", "study=parts")
    assert len(parts["runs"]) == 14


def test_half_a_line_of_a_killed_search_is_left_out(
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    state = searching(monkeypatch)
    sweep("experiment=search_alpha", "hydra.sweeper.n_trials=2")
    with (tmp_path / "search_alpha/search.journal").open("a") as journal:
        journal.write('{"op_code":')
    sweep("experiment=search_alpha", "hydra.sweeper.n_trials=3")
    assert len(state["runs"]) == 3
    assert "best of 3 trials" in capsys.readouterr().out


def test_a_full_disk_under_a_search_is_one_line(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    searching(monkeypatch)
    monkeypatch.setattr("optuna.study.Study.tell", full)
    with pytest.raises(
        UserError, match=r"trials cannot be stored in .*: .*No space left on device"
    ):
        sweep("experiment=search_alpha")


def test_two_searches_at_once_are_one_after_the_other(
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Else each would do the other's trials, and tell Optuna of them twice."""
    state = searching(monkeypatch)
    (tmp_path / "search_alpha").mkdir()
    lock = tmp_path / "search_alpha/.search.lock"
    other = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time\nfrom pathlib import Path\nfrom autol2.storage.lock import locked\n"
            "with locked(Path(sys.argv[1]), ''):\n print('', flush=True)\n sys.stdin.read()",
            str(lock),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdin
    assert other.stdout
    other.stdout.readline()

    def waits(seconds: float) -> None:
        assert state["runs"] == []
        other.communicate()

    monkeypatch.setattr("autol2.storage.lock.time.sleep", waits)
    sweep("experiment=search_alpha", "hydra.sweeper.n_trials=1")
    assert f"waiting for process {other.pid} on " in capsys.readouterr().err
    assert len(state["runs"]) == 1


def test_a_failed_trial_does_not_end_a_search(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = searching(monkeypatch, fails=lambda alpha: alpha > 25)
    sweep("experiment=search_alpha", "hydra.sweeper.n_trials=8", "hydra.sweeper.sampler.seed=1")
    said = capsys.readouterr().out
    assert len(state["runs"]) == 8
    assert any(alpha > 25 for alpha, _ in state["runs"])
    assert "failed; the search continues" in said
    assert "best of 8 trials" in said


def test_a_search_of_failures_only_ends_early(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = searching(monkeypatch, fails=lambda alpha: True)
    with pytest.raises(Failed, match=r"all . trials failed: bad luck"):
        sweep("experiment=search_alpha")
    assert len(state["runs"]) == 4


def test_seeds_are_averaged_and_never_searched(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = searching(monkeypatch)
    sweep("experiment=search_alpha", "hydra.sweeper.n_trials=2", "seed=range(3)")
    assert [seed for _, seed in state["runs"]] == [0, 1, 2] * 2 or len(state["runs"]) == 6
    rivals = {(value, seed) for value in (1e-5, 1e-4, 5e-4, 5e-3) for seed in range(3)}
    assert set(state["rivals"]) == rivals
    assert len(state["rivals"]) == len(rivals)
    best = json.loads((tmp_path / "search_alpha/search.json").read_text())
    assert best["best_value"] == pytest.approx(91 - abs(best["best_params"]["alpha.percent"] - 20))
    assert list(best["best_params"]) == ["alpha.percent"]


def test_a_trial_that_makes_no_sense_has_failed(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searching(monkeypatch)
    sweep("experiment=search_alpha", "epochs=5,0", "hydra.sweeper.n_trials=6")
    said = capsys.readouterr().out
    assert "epochs must be at least 1, not 0; the search continues" in said
    assert "best of 6 trials" in said


def test_optunas_own_name_is_ours(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    state = searching(monkeypatch)
    sweep("hydra/sweeper=optuna", "method=combined", "alpha=0,20", "hydra.sweeper.n_trials=3")
    assert {alpha for alpha, _ in state["runs"]} <= {0, 20}


@pytest.mark.slow
def test_a_real_search(run_command: Command, tmp_path: Path) -> None:
    words = "-m", "experiment=search_alpha", *SMALL, "hydra.sweeper.n_jobs=2"
    first = run_command("train", *words, "hydra.sweeper.n_trials=2")
    assert first.returncode == 0, first.stdout + first.stderr
    more = run_command("train", *words, "hydra.sweeper.n_trials=3")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "best of 3 trials: alpha.percent=" in more.stdout
    assert "validation accuracy, mean of the last tenth of training" in more.stdout
    found = [read_state(path.parent) for path in (tmp_path / "outputs").glob("*/*/run.json")]
    best = json.loads((tmp_path / "outputs/search_alpha/search.json").read_text())
    assert best["best_value"] == max(one["result"]["mean_last_tenth_validation"] for one in found)


def test_one_run_of_an_experiment(run_command: Command) -> None:
    done = run_command("train", "experiment=demo", *SMALL)
    assert done.returncode == 2
    assert "this experiment sweeps over" in done.stderr
    assert "put -m after autol2.train" in done.stderr


def test_a_user_error_has_its_status() -> None:
    assert issubclass(Failed, UserError)
