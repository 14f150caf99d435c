"""The report on real, small studies; the page in a real browser."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import ANY

import pandas as pd
import pytest

from autol2.report import figures, page
from autol2.report.__main__ import _on_cifar10, main
from autol2.report.arms import in_order
from autol2.report.faults import fault
from autol2.report.published import path_of, published, shrinking_of
from autol2.report.reproduction import reproduction
from autol2.report.runs import CHANGES, Curves, _lambdas, curves
from autol2.report.tables import Tables, tables
from autol2.report.words import arm_name
from autol2.runs.state import FIGURES, read_state
from autol2.sweeps.study import Record, records

from .conftest import PROJECT, SMALL, Command, run_autol2

METHODS = "fixed,auto_l2,threshold,combined,advance"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five methods, two seeds, with batch-norm; and one that diverges."""
    outputs = tmp_path_factory.mktemp("outputs")
    words = "study=small", "batchnorm=on", "batch_size=16", *SMALL[:-2], "threads=1"
    done = run_autol2("train", outputs, "-m", f"method={METHODS}", "seed=0,1", *words)
    assert done.returncode == 0, done.stderr
    more = "method=combined", "protocol=pseudocode", *words
    assert run_autol2("train", outputs, *more).returncode == 0
    return outputs / "small"


@pytest.fixture(scope="module")
def report(study: Path) -> Path:
    done = run_autol2("report", study.parent, "study=small")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("No claim can be made: with 2 common seeds, p cannot fall below")
    assert lines[-1] == f"report: {study / 'report' / 'index.html'}"
    return study / "report"


def test_runs_are_those_of_run_json(study: Path, report: Path) -> None:
    runs = pd.read_csv(report / "runs.csv").set_index("run_id")
    assert len(runs) == 11
    for record in records(study):
        row = runs.loc[record.run_id]
        assert row["status"] == record.state["status"]
        assert row["seed"] == record.state["seed"]
        for name, value in record.state.get("result", {}).items():
            assert row[name] == pytest.approx(value, rel=1e-9)
    (diverged,) = runs.index[runs["status"] == "diverged"]
    state = read_state(study / diverged)
    assert runs.loc[diverged, "diverged_step"] == state["diverged"]["step"]
    assert set(runs["protocol.name"].dropna()) == {"published", "pseudocode"}


def test_summary_compares_on_the_same_seeds(report: Path) -> None:
    runs = pd.read_csv(report / "runs.csv")
    summary = pd.read_csv(report / "summary.csv").set_index("arm")
    figure = runs.pivot_table(index="arm", columns="seed", values="accuracy")
    fixed = figure.loc["fixed λ 0.0005"]
    for arm, row in summary[summary["pairs"] == 2].iterrows():
        difference = (figure.loc[arm] - fixed).mean()
        assert row["difference"] == pytest.approx(difference)
        assert row["n"] == row["pairs"] == 2
        assert row["p_adjusted"] >= row["p"] >= 0.5
    assert summary["diverged"].sum() == 1
    assert set(summary.index[summary["pairs"] == 2]) == {
        "Auto L2 (published)",
        "threshold 5 % (published)",
        "combined 5 % (published)",
        "Advance L2 (published)",
    }


def test_a_second_report_reads_only_what_changed(
    study: Path, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autol2.report import runs

    read: list[str] = []
    original = runs._read
    monkeypatch.setattr(
        runs, "_read", lambda record: read.append(record.run_id) or original(record)
    )
    found = records(study)
    first = list(curves(found, report / ".cache"))
    assert read == []
    touched = found[3]
    (touched.folder / "run.json").write_text((touched.folder / "run.json").read_text() + "\n")
    assert list(curves(found, report / ".cache")) == first
    assert read == [touched.run_id]


def test_shrinking_of_the_published_runs() -> None:
    """Π(1 − 2·lr·λ) over 200 steps, from the recorded changes of λ: 0.084, 0.205, 0.256."""
    expected = {("advance", 1): 0.084, ("advance", 2): 0.205, ("combined", 1): 0.256}
    table = published()
    for (method, attempt), value in expected.items():
        (row,) = table[
            (table["method"] == method)
            & (table["batchnorm"] == "on")
            & (table["attempt"] == attempt)
        ].to_dict("records")
        assert shrinking_of(pd.Series(row)) == pytest.approx(value, abs=5e-4)
        path = path_of(pd.Series(row))
        steps = list(range(5, 395, 5))
        lambdas = [
            next(one for epoch, one in reversed(path) if epoch * 391 <= step + 1e-6)
            for step in steps
        ]
        frame = pd.DataFrame({"epoch": 0, "step": steps, "lambda": lambdas})
        assert _lambdas(frame, 391, 0.01)[1] == pytest.approx(value, abs=5e-4)


def test_a_broken_run_is_listed(study: Path, report: Path, tmp_path: Path) -> None:
    copy = tmp_path / "outputs" / "small"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report"))
    whole = [one.folder for one in records(copy) if one.state["status"] == "completed"]
    first, second, third, fourth = whole[:4]
    (first / "run.json").write_text("{")
    (second / "epochs.csv").write_text("nonsense\n")
    (third / "measurements.csv").unlink()
    state = read_state(fourth)
    (fourth / "run.json").write_text(json.dumps({**state, "result": {}}))
    done = run_autol2("report", tmp_path / "outputs")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    runs = pd.read_csv(copy / "report" / "runs.csv").set_index("run_id")
    assert runs.loc[first.name, "status"] == "broken"
    assert runs.loc[fourth.name, "status"] == "broken"
    page = (copy / "report" / "index.html").read_text()
    for folder in (first, second, third, fourth):
        assert re.search("cannot be (read|used)", runs.loc[folder.name, "problem"])
        assert (
            f'<tr><th scope="row">{folder.name}</th><td>{runs.loc[folder.name, "status"]}</td>'
            in page
        )
    assert "The records of some completed runs cannot be read." in page


def test_a_folder_that_cannot_be_written(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "outputs" / "small"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report"))
    (copy / "report").write_text("in the way")
    done = run_autol2("report", tmp_path / "outputs")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"error: {copy / 'report'} cannot be written: File exists"]


@pytest.mark.parametrize("what", ["sweeps.study._traces", "report.__main__.records"])
def test_a_study_that_cannot_be_read(
    study: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(f"autol2.{what}", refuse)
    monkeypatch.setattr(sys, "argv", ["report", f"outputs={study.parent}", "study=small"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert re.search(r"^error: .* cannot be read: Permission denied$", capsys.readouterr().err)


def test_missing_runs_are_listed(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "outputs" / "small"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report"))
    gone = records(copy)[0].run_id
    shutil.rmtree(copy / gone)
    asked = json.loads((copy / "study.json").read_text())["runs"]
    assert gone in asked
    assert run_autol2("report", tmp_path / "outputs").returncode == 0
    page = (copy / "report" / "index.html").read_text()
    assert re.search(rf"<th scope=\"row\">{gone}</th><td>missing</td>", page)
    assert "1 missing: this report is partial" in page


def test_every_column_is_documented(report: Path) -> None:
    text = (PROJECT / "autol2" / "report" / "README.md").read_text(encoding="utf-8")
    for table in ("runs", "summary"):
        documented = text.partition(f"| {table}.csv |")[2].partition("\n\n")[0]
        columns = pd.read_csv(report / f"{table}.csv").columns
        unknown = [name for name in columns if "." not in name and f"`{name}`" not in documented]
        assert unknown == [], table


def test_numbers_are_typed(report: Path) -> None:
    """Whole numbers stay whole although a run without a result has none."""
    text = (report / "runs.csv").read_text()
    runs = pd.read_csv(report / "runs.csv", dtype=str).set_index("run_id")
    assert set(runs["seed"]) == {"0", "1"}, text
    assert runs["diverged_step"].dropna().str.fullmatch(r"\d+").all()


def test_studies_that_do_not_exist(study: Path, run_command: Command, tmp_path: Path) -> None:
    done = run_autol2("report", study.parent, "study=other")
    assert done.returncode == 2
    assert f"there is no study 'other' in {study.parent}; there are: small" in done.stderr
    done = run_command("report", outputs=tmp_path / "nowhere")
    assert done.returncode == 2
    assert "there is no study in" in done.stderr
    assert not (tmp_path / "nowhere").exists()


# ---------------------------------------------------------------------- what is compared


def identity(method: str, seed: int, **options: object) -> dict[str, object]:
    nested: dict[str, dict[str, object]] = {
        "method": {"name": method},
        "batchnorm": {"enabled": True},
        "control": {"penalized": "all", "scale": 1.0, "lr_factor": 1.0, "pulse_length": 0},
    }
    for name, value in options.items():
        group, _, option = name.partition("__")
        nested.setdefault(group, {})[option] = value
    return {**nested, "seed": seed, "lr": 0.01}


def record(accuracy: float, options: dict[str, object], status: str = "completed") -> Record:
    result = {"mean_last_tenth": accuracy, "final_test_accuracy": accuracy}
    name = re.sub(r"\W+", "-", str(options))
    state = {"status": status, "identity": options, "seed": options["seed"], "result": result}
    return Record(Path(name), state)


def made(*found: Record) -> Tables:
    return tables([(one, Curves(lambdas=[(5, 0.1), (9, 0.1)])) for one in found])


def test_what_one_method_alone_has_is_no_axis() -> None:
    found = [
        record(50.0, identity("cosine", 0, method__initial_lambda=5e-5)),
        record(50.0, identity("advance", 0, method__initial_lambda=0.1)),
    ]
    table = made(*found)
    assert table.axes == ["method.name"]
    assert table.varying == ["method.initial_lambda", "method.name"]
    assert set(table.runs["arm"]) == {"cosine λ", "Advance L2"}


def test_an_axis_is_never_pooled_over_another_option() -> None:
    """Two α of two methods at two learning rates: four comparisons of two curves of two seeds."""
    found = [
        record(50.0, {**identity(method, seed, alpha__percent=alpha), "lr": lr})
        for method in ("threshold", "combined")
        for alpha in (2.5, 7.5)
        for lr in (0.01, 0.1)
        for seed in (0, 1)
    ]
    table = made(*found)
    histories = {one.run_id: Curves(problem=one.run_id) for one in found}
    rows = figures._axis_rows(table.runs, histories, "alpha.percent", table)
    assert len(rows) == 4
    for _, shown in rows:
        assert [curve.label for curve in shown] == ["α = 2.5 %", "α = 7.5 %"]
        assert all(len(curve.runs) == 2 for curve in shown)
        ids = [run.problem for curve in shown for run in curve.runs]
        assert len({re.sub(r"percent-\d+-\d+|seed-\d", "", one) for one in ids}) == 1
    of_methods = figures._axis_rows(table.runs, histories, "method.name", table)
    assert [len(shown) for _, shown in of_methods] == [4, 4]  # a row a learning rate


def test_arms_are_in_the_order_of_their_numbers() -> None:
    arms = [
        "fixed λ 0",
        "fixed λ 1e-05",
        "fixed λ 0.0005",
        "fixed λ 0.0005 lr=0.01",
        "fixed λ 0.0005 lr=0.1",
        "Auto L2",
        "threshold 5 %",
        "threshold 10 %",
        "Advance L2",
        "combined 5 %",
    ]
    assert list(in_order(reversed(arms))) == arms
    table = page._table(pd.DataFrame({"arm": sorted(arms)}), {"arm": "arm"})
    keys = {
        text.replace("\N{NO-BREAK SPACE}", " "): int(key) for ((text, key, _),) in table["rows"]
    }
    assert sorted(keys, key=lambda arm: keys[arm]) == [arm_name(arm) for arm in arms]


def test_published_figures_are_for_cifar10_alone() -> None:
    def on(train: int, classes: int) -> bool:
        data = {"train": train, "test": 10_000, "classes": classes, "digest": "d"}
        return _on_cifar10([(Record(Path("x"), {"data": data}), Curves())])

    assert on(50_000, 10)
    assert not on(50_000, 100)  # CIFAR-100
    assert not on(60_000, 10)


def test_how_ours_were_made_otherwise_than_the_papers() -> None:
    found = [
        record(50.0, {**identity("threshold", seed, alpha__percent=alpha), "epochs": 3})
        for seed in (0, 1)
        for alpha in (10.0, 5.0)
    ]
    reproduced = reproduction(made(*found).runs, found)
    assert reproduced.table["arm"].tolist() == ["threshold 5 %", "threshold 10 %"]
    assert reproduced.table["n"].tolist() == [2, 2]
    assert reproduced.differences == "epochs is 3, not 200"
    assert reproduction(made(*found).runs.assign(status="failed"), found).table.empty


def test_a_run_of_several_versions_is_told() -> None:
    """One attempt with another PyTorch and a dirty tree, although the last one had neither."""
    state = record(50.0, identity("fixed", 0, fixed_lambda__value=1e-4)).state
    state["attempts"] = [
        {"torch": "2.11", "git": {"commit": "a", "dirty": True}, "threads": 1},
        {"torch": "2.12", "git": {"commit": "a", "dirty": False}, "threads": 1},
    ]
    table = tables([(Record(Path("x"), state), Curves())])
    warnings = page._warnings(table.runs, table.attempts)
    assert warnings == [
        "Some runs used a source tree with uncommitted changes.",
        "The runs used several PyTorch versions (1 run used more than one).",
    ]
    facts = dict(page._provenance(table))
    assert facts["torch"] == "2.11, 2.12"
    assert facts["seed"] == "0"


def test_files_that_were_passed_over_are_told_with_counts_a_class() -> None:
    states = [
        record(50.0, identity("fixed", seed, fixed_lambda__value=1e-4)).state for seed in (0, 1)
    ]
    found = {"train/cat": {".gif": 1200, ".avif": 2}, "test/dog": {".jp2": 1}}
    for state in states:
        state["data"] = {"digest": "a" * 64, "passed_over": found}
    table = tables([(Record(Path(f"x{i}"), state), Curves()) for i, state in enumerate(states)])
    assert page._warnings(table.runs, table.attempts) == [
        "Some files in the image folders were ignored: train/cat 1,200 .gif, 2 .avif; "
        "test/dog 1 .jp2."
    ]
    states[0]["data"]["passed_over"] = {"train/cat": 3, "test": {".gif": "x"}}
    tables([(Record(Path("x"), states[0]), Curves())])  # by an editor's hand


# ---------------------------------------------------------------------- reading


def sound_state(status: str = "completed") -> dict:
    """A run.json with what the report needs."""
    return {
        "status": status,
        "updated": 1.0,
        "steps_per_epoch": 391,
        "config": {"lr": 0.01},
        "identity": identity("threshold", 0, alpha__percent=5.0),
        "attempts": [{"seconds": 1.0, "torch": "2.11", "git": {"commit": "c", "dirty": False}}],
        "result": dict.fromkeys(FIGURES, 50.0),
    }


def generate(folder: Path, runs: int, epochs: int) -> list[Record]:
    """A study's worth of records: the paper's 78 measurements an epoch, λ falling three times."""
    measured = [(epoch, step) for epoch in range(epochs) for step in range(5, 391, 5)]
    rows = [
        f"{epoch},{step},{0.1 / 10 ** min(3, place // 9)},2.123456789,12.5,none,0.123456789,9.87"
        for place, (epoch, step) in enumerate(measured)
    ]
    header = "epoch,step,lambda,train_loss,train_accuracy,event,penalty,weight_norm"
    evaluations = [f"{epoch},391,0.0001,50.0" for epoch in range(epochs)]
    state = sound_state()
    for number in range(runs):
        run = folder / f"run-{number}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps(state))
        (run / "measurements.csv").write_text("\n".join([header, *rows, ""]))
        (run / "epochs.csv").write_text(
            "\n".join(["epoch,step,lambda,test_accuracy", *evaluations, ""])
        )
    return records(folder)


def test_reading_grows_with_the_study_and_keeps_little(tmp_path: Path) -> None:
    """Four times the runs take about four times as long, and what is kept of a run is small."""
    generate(tmp_path / "warm", 1, 200)
    list(curves(records(tmp_path / "warm"), tmp_path / "kept-warm"))
    took = {}
    for runs in (5, 20):
        found = generate(tmp_path / str(runs), runs, 200)
        before = time.process_time()
        read = list(curves(found, tmp_path / f"kept-{runs}"))
        took[runs] = time.process_time() - before
    assert took[20] < 10 * took[5]
    for _, history in read:
        assert [value for _, value in history.lambdas] == pytest.approx(
            [0.1, 0.01, 1e-3, 1e-4, 1e-4]
        )
        assert history.lambdas[-1][0] == 199 * 391 + 390
        assert len(history.epochs["epoch"]) == 200
    kept = sum(path.stat().st_size for path in (tmp_path / "kept-20").iterdir())
    whole = sum((one.folder / "measurements.csv").stat().st_size for one in found)
    assert kept < whole / 20
    before = time.process_time()
    assert list(curves(found, tmp_path / "kept-20")) == read
    assert time.process_time() - before < took[20] / 3


def test_a_schedule_that_always_moves_is_thinned(tmp_path: Path) -> None:
    (one,) = generate(tmp_path / "study", 1, 20)
    path = one.folder / "measurements.csv"
    rows = pd.read_csv(path)
    rows["lambda"] = [0.1 / (1 + place) for place in range(len(rows))]
    rows.to_csv(path, index=False)
    ((_, history),) = curves([one], tmp_path / "kept")
    assert len(history.lambdas) <= CHANGES
    steps = [step for step, _ in history.lambdas]
    assert steps == sorted(set(steps))
    assert history.lambdas[0] == (5, 0.1)
    assert history.lambdas[-1] == (19 * 391 + 390, pytest.approx(0.1 / len(rows)))


def test_half_a_row_of_a_running_run_is_left_for_later(tmp_path: Path) -> None:
    (one,) = generate(tmp_path / "study", 1, 1)
    path = one.folder / "measurements.csv"
    whole = path.read_text()
    path.write_text(whole + "1,5,0.0")  # of 0.0001
    ((_, history),) = curves([one], tmp_path / "kept")
    assert history.problem == ""
    assert history.lambdas[-1] == (390, pytest.approx(1e-4))


def test_a_running_run_has_no_rows_at_first(tmp_path: Path) -> None:
    (one,) = generate(tmp_path / "study", 1, 1)
    (one.folder / "epochs.csv").unlink()
    (one.folder / "measurements.csv").write_bytes(b"")
    begun = Record(one.folder, sound_state("running"))
    ((_, history),) = curves([begun], tmp_path / "kept")
    assert history == Curves(
        epochs={name: [] for name in ("test_accuracy", "epoch")}, shrinking=ANY
    )
    (one.folder / "run.json").touch()
    ((_, history),) = curves([one], tmp_path / "kept-completed")
    assert history.problem == "its records cannot be read: epochs.csv is missing or empty"


HEADER = "epoch,step,lambda\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("measurements.csv", b"\xff\xfe\n", "measurements.csv: "),
        ("measurements.csv", b"epoch,step\n0,5\n", "there is no column lambda"),
        (
            "measurements.csv",
            f"{HEADER}0,5,nan\n".encode(),
            "not every λ is a number of at least 0",
        ),
        ("measurements.csv", f"{HEADER}0,5,-1\n".encode(), "not every λ is a number of at least 0"),
        (
            "measurements.csv",
            f"{HEADER}0,5,1e99\n".encode(),
            "not every λ is a number of at least 0",
        ),
        ("measurements.csv", f"{HEADER}0,5,x\n".encode(), "could not convert"),
        ("measurements.csv", f"{HEADER}0,5,1\n0,5,1\n".encode(), "its steps do not increase"),
        ("measurements.csv", f"{HEADER}0,nan,1\n".encode(), "its steps do not increase"),
        ("measurements.csv", f"{HEADER}0,inf,1\n".encode(), "its steps do not increase"),
        ("epochs.csv", b"", "epochs.csv is missing or empty"),
        ("epochs.csv", b"epoch,step,test_accuracy\n", "epochs.csv has no rows"),
        ("epochs.csv", b"epoch,step,test_accuracy\n0,391,nan\n", "from 0 to 100"),
        ("epochs.csv", b"epoch,step,test_accuracy\n0,391,inf\n", "from 0 to 100"),
        ("epochs.csv", b"nonsense\nfoo\n", "there is no column epoch"),
    ],
)
def test_damaged_records_are_told(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (one,) = generate(tmp_path / "study", 1, 1)
    (one.folder / name).write_bytes(content)
    ((_, history),) = curves([one], tmp_path / "kept")
    assert history.problem.startswith("its records cannot be read: ")
    assert words in history.problem


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("status", "weird", "status is 'weird'"),
        ("status", None, "it has no status"),
        ("status", [1], "status is [1]"),
        ("identity", [1], "identity is [1]"),
        ("identity", None, "it has no identity"),
        ("identity.method", "auto_l2", "identity.method is 'auto_l2'"),
        ("identity.method.name", None, "it has no identity.method.name"),
        ("identity.seed", "x", "identity.seed is 'x'"),
        ("identity.seed", 0.5, "identity.seed is 0.5"),
        ("identity.alpha.percent", None, "it has no identity.alpha.percent"),
        ("identity.lr", [1], "identity.lr is [1]"),
        ("attempts", "x", "attempts is 'x'"),
        ("attempts", [None], "attempts is 'null'"),
        ("attempts", [1], "attempts is 1"),
        ("attempts", [{"seconds": "x"}], "attempts.seconds is 'x'"),
        ("attempts", [{"git": "x"}], "attempts.git is 'x'"),
        ("result", None, "it has no result.final_test_accuracy"),
        ("result.mean_last_tenth", "nan", "result.mean_last_tenth is nan"),
        ("result.mean_last_tenth", "x", "result.mean_last_tenth is 'x'"),
        ("result.final_test_loss", "nan", ""),
        ("steps_per_epoch", 0, "steps_per_epoch is 0"),
        ("steps_per_epoch", "x", "steps_per_epoch is 'x'"),
        ("error", [1], "error is [1]"),
        ("data", "x", "data is 'x'"),
        ("data", {"classes": 10, "test": -1}, "data.test is -1"),
        ("data", {"classes": 0}, "data.classes is 0"),
        ("steps_per_epoch", 2**64, "steps_per_epoch is 18446744073709551616"),
    ],
)
def test_a_run_json_that_makes_no_sense_is_told(path: str, value: object, words: str) -> None:
    state = json.loads(json.dumps(sound_state()))
    assert fault(state) == ""
    *parents, name = path.split(".")
    inner = state
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    assert fault(state) == (words and f"run.json cannot be used: {words}")
    history = Curves(problem=fault(state))
    found = Record(Path("x"), {} if fault(state) else state)
    assert tables([(found, history)]).runs["problem"].tolist() == [history.problem]


def test_a_run_whose_lambda_diverged_has_records(tmp_path: Path) -> None:
    """CPR takes λ from the weights: it is no number where those are none."""
    (one,) = generate(tmp_path / "study", 1, 1)
    (one.folder / "measurements.csv").write_text("epoch,step,lambda\n0,5,0.1\n0,10,nan\n")
    diverged = {**sound_state("diverged"), "diverged": {"step": 10, "lambda": "nan"}}
    ((_, history),) = curves([Record(one.folder, diverged)], tmp_path / "kept")
    assert (history.problem, history.lambdas) == ("", [(5, 0.1), (5, 0.1)])


def test_a_diverged_run_says_where() -> None:
    state = {**sound_state("diverged"), "diverged": {"step": 35}}
    assert fault(state) == "run.json cannot be used: it has no diverged.lambda"
    state["diverged"]["lambda"] = "inf"
    assert fault(state) == ""
    row = tables([(Record(Path("x"), state), Curves())]).runs.iloc[0]
    assert (row["diverged_step"], row["diverged_lambda"]) == (35, math.inf)


def test_a_run_that_failed_before_it_began_says_why() -> None:
    """As a launcher writes it for a process that ended without a word."""
    state = {"status": "failed", "error": "Traceback:\nImportError: no torch", "attempts": [{}]}
    assert fault(state) == ""
    assert fault({**state, "error": " \n"}) == ""
    table = tables([(Record(Path("x"), state), Curves(problem="no records"))])
    assert table.runs["problem"].tolist() == ["ImportError: no torch"]


def test_no_torch_for_a_report() -> None:
    code = "import autol2.report.__main__, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_tables_of_nothing() -> None:
    made = tables([(Record(Path("x"), {}), Curves(problem="gone"))])
    assert made.runs["status"].tolist() == ["broken"]
    assert made.summary.empty
