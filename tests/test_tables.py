"""The tables as files, and what makes arms."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from autol2.report.tables import Tables, write_csv

from .studies import arm, fixed, made


def written(tables: Tables, folder: Path, name: str = "runs") -> tuple[bytes, pd.DataFrame]:
    path = folder / f"{name}.csv"
    write_csv(getattr(tables, name), path)
    return path.read_bytes(), pd.read_csv(path)


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    runs = fixed(0.1 * 0.001, [100 * (1 - 0.9), 70.0])
    runs[0].state["result"]["final_lambda"] = 0.00010000000000000003
    content, table = written(made(runs), tmp_path)
    assert b"00000000" not in content
    assert b",0.0001," in content
    assert table["final_lambda"].iloc[0] == 1e-4


def test_excel_shows_greek_letters(tmp_path: Path) -> None:
    content, table = written(made(fixed(5e-4, [70.0])), tmp_path)
    assert content.startswith(b"\xef\xbb\xbf")
    assert table["arm"].tolist() == ["fixed λ 0.0005"]
    assert table.columns[0] == "run_id"


def test_one_column_of_batch_norm(tmp_path: Path) -> None:
    tables = made(
        fixed(5e-4, [70.0]), fixed(1e-4, [70.0], batchnorm__enabled=False), arm("auto_l2", [1.0])
    )
    _, table = written(tables, tmp_path)
    assert [name for name in table if "batchnorm" in name] == ["batchnorm"]
    assert table["batchnorm"].dtype == bool


def test_no_digest_reads_as_a_number(tmp_path: Path) -> None:
    runs = fixed(5e-4, [70.0, 71.0])
    for run, digest in zip(runs, ("1234567890", "12345e6789"), strict=True):
        run.state["data"] = {"digest": digest, "classes": 10, "test": 10}
    _, table = written(made(runs), tmp_path)
    for name in ("data", "context", "arm_digest"):
        assert table[name].map(type).eq(str).all(), name
        assert table[name].str.match("[a-z]+-").all(), name


def test_whole_numbers_and_truth_values_stay_so_where_some_are_missing(tmp_path: Path) -> None:
    runs = fixed(5e-4, [70.0, None])
    runs[0].state["attempts"] = [{"threads": 2, "git": {"commit": "c", "dirty": True}}]
    content, _ = written(made(runs), tmp_path)
    rows = list(csv.DictReader(content.decode("utf-8-sig").splitlines()))
    assert [row["threads"] for row in rows] == ["2", ""]
    assert [row["dirty"] for row in rows] == ["True", ""]
    assert [row["diverged_step"] for row in rows] == ["", "3"]
    assert [row["collapsed"] for row in rows] == ["False", ""]


def test_an_option_at_its_neutral_value_tells_arms_apart() -> None:
    """An identity leaves it out there: protocol.lambda_max=1 against no bound at all."""
    tables = made(
        fixed(5e-4, [70.0]),
        arm("advance", [71.0]),
        arm("advance", [72.0], protocol__lambda_max=1.0),
    )
    assert set(tables.summary["arm"]) == {
        "fixed λ 0.0005",
        "Advance L2",
        "Advance L2 protocol.lambda_max=1",
    }
    assert tables.summary["context"].nunique() == 1


def test_options_that_are_lists(tmp_path: Path) -> None:
    """Each channel's mean, as of CIFAR-10."""
    tables = made(fixed(5e-4, [70.0], data__mean=[0.5, 0.4]), fixed(5e-4, [70.0], data__mean=[0.1]))
    _, table = written(tables, tmp_path)
    assert set(table["data.mean"]) == {"[0.5, 0.4]", "[0.1]"}
    assert len(tables.summary) == 2


def test_a_run_says_itself_whether_it_is_a_baseline() -> None:
    """A method of one's own, by what run.json says and not by its name."""
    runs = arm("package.Mine", [70.0], fixed_lambda__value=5e-4)
    for run in runs:
        run.state["method"] = {"label": "my fixed λ", "baseline": True}
    table = made(runs, arm("auto_l2", [71.0])).summary.set_index("arm")
    assert table.loc["my fixed λ 0.0005", "baseline"]
    assert table.loc["Auto L2", "pairs"] == 1
