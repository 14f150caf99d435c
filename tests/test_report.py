"""The report on real, small studies; the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from autol2.report.figures import published_path
from autol2.report.runs import Curves, _lambdas, curves
from autol2.report.tables import published, tables
from autol2.report.verdict import verdict
from autol2.run import read_state
from autol2.study import Record, records

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
    assert lines[0].startswith("No claim can be made: with 2 seeds an arm the test cannot go below")
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
            assert row[name] == pytest.approx(value, rel=1e-12)
    (diverged,) = runs.index[runs["status"] == "diverged"]
    state = read_state(study / diverged)
    assert runs.loc[diverged, "diverged_step"] == state["diverged"]["step"]
    assert set(runs["protocol.name"].dropna()) == {"published", "pseudocode"}


def test_summary_compares_on_the_same_seeds(report: Path) -> None:
    runs = pd.read_csv(report / "runs.csv")
    summary = pd.read_csv(report / "summary.csv").set_index("arm")
    figure = runs.pivot_table(index="arm", columns="seed", values="mean_last_10_epochs")
    fixed = figure.loc["fixed λ 0.0005"]
    for arm, row in summary[summary["pairs"] > 0].iterrows():
        difference = (figure.loc[arm] - fixed).mean()
        assert row["difference"] == pytest.approx(difference)
        assert row["n"] == row["pairs"] == 2
        assert row["p_holm"] >= row["p"] >= 0.5
    assert summary["diverged"].sum() == 1
    assert set(summary.index[summary["pairs"] == 2]) == {
        "Auto L2 (published)",
        "threshold 5 % (published)",
        "combined 5 % (published)",
        "Advance L2 (published)",
    }


def test_figures_are_drawn(report: Path) -> None:
    drawn = {path.stem for path in report.glob("*.png")}
    assert "explain" in drawn
    assert len(drawn) >= 2
    for path in report.glob("*.png"):
        image = Image.open(path)
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(10**7)) > 50
        assert path.with_suffix(".svg").read_text().rstrip().endswith("</svg>")


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
        path = published_path(pd.Series(row))
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
    first, second, third = (record.folder for record in records(copy)[:3])
    (first / "run.json").write_text("{")
    (second / "epochs.csv").write_text("nonsense\n")
    (third / "measurements.csv").unlink()
    done = run_autol2("report", tmp_path / "outputs")
    assert done.returncode == 0, done.stderr
    runs = pd.read_csv(copy / "report" / "runs.csv").set_index("run_id")
    assert runs.loc[first.name, "status"] == "broken"
    for folder in (first, second, third):
        assert "cannot be read" in runs.loc[folder.name, "problem"]
    page = (copy / "report" / "index.html").read_text()
    assert "The records of some completed runs cannot be read." in page


def test_missing_runs_are_listed(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "outputs" / "small"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report"))
    gone = records(copy)[0].run_id
    shutil.rmtree(copy / gone)
    asked = json.loads((copy / "study.json").read_text())["runs"]
    assert gone in asked
    assert run_autol2("report", tmp_path / "outputs").returncode == 0
    page = (copy / "report" / "index.html").read_text()
    assert re.search(rf"<td>{gone}</td><td>missing</td>", page)
    assert "1 missing: this report is partial" in page


def test_studies_that_do_not_exist(study: Path, run_command: Command, tmp_path: Path) -> None:
    done = run_autol2("report", study.parent, "study=other")
    assert done.returncode == 2
    assert f"there is no study 'other' in {study.parent}; there are: small" in done.stderr
    done = run_command("report", outputs=tmp_path / "nowhere")
    assert done.returncode == 2
    assert "there is no study in" in done.stderr
    assert not (tmp_path / "nowhere").exists()


def summary_of(differences: list[float], p: float, **more: object) -> pd.DataFrame:
    n = len(differences)
    row = {
        "arm": "Advance L2",
        "method": "advance",
        "batchnorm": True,
        "n": n,
        "diverged": 0,
        "pairs": n,
        "difference": sum(differences) / n,
        "difference_low": min(differences),
        "difference_high": max(differences),
        "p": p,
        "p_holm": p,
        "seeds_needed": 40,
        "mean": 70.0,
        **more,
    }
    return pd.DataFrame([row])


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (summary_of([1.0] * 8, 0.01), "Yes: Advance L2 with batch-norm beats the best fixed λ."),
        (summary_of([-1.0] * 8, 0.01), "No schedule can be told to beat the best fixed λ."),
        (summary_of([1.0] * 8, 0.2), "No schedule can be told to beat the best fixed λ."),
        (summary_of([1.0] * 5, 0.0625), "No claim can be made: with 5 seeds"),
        (summary_of([1.0], float("nan")), "No claim can be made: one seed an arm"),
        (pd.DataFrame(), "No run of this study has come to a result yet."),
    ],
)
def test_the_verdict(summary: pd.DataFrame, words: str) -> None:
    assert verdict(summary)[0].startswith(words)


def test_the_verdict_says_how_many_seeds_it_would_take() -> None:
    assert "about 32 more seeds" in verdict(summary_of([1.0] * 8, 0.2))[1]


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


# ---------------------------------------------------------------------- the page in a browser

PROBE = """<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message || event.target.src), true);
window.addEventListener("load", () => {
  const column = (name, place) =>
    [...document.querySelectorAll(`#${name} tbody tr`)].map((row) => row.children[place].innerText);
  const heads = [...document.querySelectorAll("#summary th button")];
  const place = heads.findIndex((head) => head.innerText.startsWith("mean of last"));
  heads[place].click();
  const up = column("summary", place);
  heads[place].click();
  const down = column("summary", place);
  const images = [...document.images].map((image) => image.complete && image.naturalWidth);
  const found = { errors, up, down, images, title: document.title, hacked: window.hacked ?? false,
    wide: document.documentElement.scrollWidth > window.innerWidth };
  document.body.innerHTML = "";
  document.body.append(Object.assign(document.createElement("pre"), {
    id: "found", innerText: JSON.stringify(found) }));
});
</script>"""


def look(page: Path, tmp_path: Path, width: int = 1200) -> dict:
    """What headless Chromium finds when it opens and uses the page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("<head>", "<head>" + PROBE))
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            f"--window-size={width},900",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[:2000]
    answer: dict = json.loads(html.unescape(found[1]))
    return answer


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_works(report: Path, tmp_path: Path, width: int) -> None:
    found = look(report / "index.html", tmp_path, width)
    assert found["errors"] == []
    assert found["title"] == "autol2: small"
    assert len(found["images"]) == len(list(report.glob("*.png")))
    assert all(found["images"])
    numbers = [float(text) for text in found["up"] if text != "–"]
    assert numbers == sorted(numbers)
    assert len(numbers) >= 5
    backwards = [float(text) for text in found["down"] if text != "–"]
    assert backwards == sorted(numbers, reverse=True)
    assert not found["wide"]


def test_the_page_is_self_contained(report: Path) -> None:
    text = re.sub(r"data:[a-z/+]+;base64,[A-Za-z0-9+/=]+", "", (report / "index.html").read_text())
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"<(link|script|img)[^>]*(src|href)=\"(?!data:|\")", text)


def test_text_is_escaped(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "outputs" / "small"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report"))
    folder = records(copy)[0].folder
    state = read_state(folder)
    evil = "<script>window.hacked = true</script><img src=x onerror='window.hacked = true'>"
    state.update(status="failed", error=f"ValueError: {evil}", command=evil)
    (folder / "run.json").write_text(json.dumps(state))
    assert run_autol2("report", tmp_path / "outputs").returncode == 0
    page = copy / "report" / "index.html"
    assert html.escape(evil).replace("&#x27;", "&#39;") in page.read_text()
    found = look(page, tmp_path)
    assert found["hacked"] is False
    assert found["errors"] == []


def test_tables_of_nothing() -> None:
    made = tables([(Record(Path("x"), {}), Curves(problem="gone"))])
    assert made.runs["status"].tolist() == ["broken"]
    assert made.summary.empty
