"""The page as a reader has it: in a browser, on a phone, in the dark and on paper."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

import autol2
from autol2.report.__main__ import report
from autol2.report.page import _speed
from autol2.runs.state import read_state
from autol2.sweeps.study import records

from .synthetic import DIGITS, PAPER, Arm, write_study

SMALL = [
    *(Arm("fixed", 92.0 + place, value) for place, value in enumerate((1e-4, 5e-4))),
    Arm("auto_l2", 91.0, chance=(1,)),
    Arm("combined", 93.0, 5.0, diverged=(2,)),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = write_study(
        tmp_path_factory.mktemp("outputs") / "small", SMALL, 3, epochs=12, length=180, data=DIGITS
    )
    return report(study, Console(quiet=True))[0]


def chromium(tmp_path: Path, page: Path, *arguments: str) -> str:
    """What headless Chromium prints for a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={tmp_path / 'profile'}",
            *arguments,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message || event.target.src), true);
addEventListener("load", () => {
  const head = [...document.querySelectorAll("#arms th [role=button]")]
    .find((one) => one.innerText.startsWith("accuracy"));
  const place = [...head.closest("tr").children].indexOf(head.parentElement);
  const column = () => [...document.querySelectorAll("#arms tbody tr")]
    .map((row) => row.children[place].innerText);
  head.click();
  const up = column();
  head.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  const found = {
    errors, up, down: column(), title: document.title, hacked: window.hacked ?? false,
    wide: document.documentElement.scrollWidth > innerWidth,
    unsaid: [...document.querySelectorAll(".scroll")].filter((box) =>
      box.scrollWidth > box.clientWidth + 1
      && getComputedStyle(box.previousElementSibling).display === "none").length,
    scrolling: [...document.querySelectorAll(".scroll")]
      .filter((box) => box.scrollWidth > box.clientWidth + 1).length,
    found: window.find("λ = 5e-4") && window.find("difference in test accuracy (points)"),
    text: getComputedStyle(document.querySelector("#method svg text")).fill,
    back: getComputedStyle(document.body).backgroundColor,
  };
  document.body.innerHTML = "";
  document.body.append(Object.assign(document.createElement("pre"), {
    id: "found", innerText: JSON.stringify(found) }));
});
</script>"""


def look(page: Path, tmp_path: Path, *arguments: str) -> dict:
    """What a browser finds when it opens and uses the page."""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("<head>", "<head>" + PROBE))
    printed = chromium(tmp_path, probed, "--virtual-time-budget=10000", "--dump-dom", *arguments)
    found = re.search(r'<pre id="found">(.*?)</pre>', printed, re.S)
    assert found, printed[:2000]
    answer: dict = json.loads(html.unescape(found[1]))
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_works(page: Path, tmp_path: Path, width: int) -> None:
    """Tables sort by mouse and keyboard; what is wider than the screen says so; text is found."""
    found = look(page, tmp_path, f"--window-size={width},900")
    assert found["errors"] == []
    assert found["title"] == "autol2: small"
    numbers = [float(text) for text in found["up"] if text != "–"]
    assert numbers == sorted(numbers)
    assert len(numbers) == 8
    assert [float(text) for text in found["down"] if text != "–"] == numbers[::-1]
    assert not found["wide"]
    assert found["unsaid"] == 0
    assert found["scrolling"] <= 1 or width == 500  # the runs, whose commands are long
    assert found["found"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "text", "back"),
    [(1, "rgb(26, 26, 26)", "rgb(255, 255, 255)"), (0, "rgb(232, 232, 232)", "rgb(22, 24, 27)")],
)
def test_figures_are_as_light_or_dark_as_the_page(
    page: Path, tmp_path: Path, scheme: int, text: str, back: str
) -> None:
    found = look(page, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert (found["text"], found["back"]) == (text, back)


@pytest.mark.slow
def test_the_page_on_paper(page: Path, tmp_path: Path) -> None:
    """Tables repeat their heads, folded things are there, and no text is below 7 points."""
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext on this machine")
    long = tmp_path / "long.html"
    text = page.read_text()
    row = re.search(r'<tr><th scope="row" [^>]*>fixed-bn.*?</tr>', text)
    assert row is not None
    long.write_text(text.replace(row[0], row[0] * 150, 1))
    pdf = tmp_path / "page.pdf"
    chromium(tmp_path, long, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    words = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True)
    assert len(re.findall(r"^ *run +arm +", words.stdout, re.MULTILINE)) >= 3
    assert "effective learning rate" in words.stdout
    boxes = subprocess.run(["pdftotext", "-bbox", pdf, "-"], capture_output=True, text=True)
    corners = re.findall(
        r'xMin="([\d.]+)" yMin="([\d.]+)" xMax="([\d.]+)" yMax="([\d.]+)"', boxes.stdout
    )
    sizes = [  # of a word that stands upright, its height; turned, its width
        max(float(right) - float(left), float(bottom) - float(top))
        for left, top, right, bottom in corners
    ]
    assert len(sizes) > 500
    assert min(sizes) >= 7


def test_the_order_of_sections(page: Path) -> None:
    """Verdict, arms, figures, what the penalty does (folded); one <main> around them."""
    text = page.read_text()
    marks = [
        "<main>",
        'class="verdict"',
        ">Arms<",
        ">Figures<",
        '<details id="penalty">',
        "</main>",
    ]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert text.count("<main>") == text.count("</main>") == 1
    folded = text[text.index('<details id="penalty">') :]
    assert 'id="explain"' in folded
    assert '<details id="penalty" open' not in text


def test_tables_say_what_they_are(page: Path) -> None:
    """A caption, heads with a scope, a head a row, no symbols of the source and no doubles."""
    text = page.read_text()
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) >= 4
    for table in tables:
        assert "<caption>" in table
        heads = re.findall(r"<th scope=\"col\"[^>]*>(?:<span[^>]*>)?([^<]+)", table)
        assert len(heads) == len(set(heads)) == table.count('<th scope="col"')
        assert not any(re.search(r"Π|_|^ours$", head) for head in heads)
        assert table.count('<th scope="row"') == table.count("<tr>") - 1
    runs = text[text.index('<table id="arms">') :]
    assert runs.index(">off<") < runs.index(">on<")
    assert "λ = 5e-4" in text
    assert not re.search(r">[^<]*0\.0005", text[: text.index(">Runs<")])


def test_figures_have_alternatives(page: Path) -> None:
    svgs = re.findall(r"<svg [^>]*>", page.read_text())
    assert len(svgs) >= 5
    for svg in svgs:
        assert 'role="img"' in svg
        assert len(re.findall(r'aria-label="([^"]*)"', svg)[0]) > 60


def test_the_page_is_self_contained(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#|\")", text)
    assert "url(http" not in text
    assert "@import" not in text


def test_names_of_a_page_are_unique(page: Path) -> None:
    names = re.findall(r' id="([^"]+)"', page.read_text())
    assert len(names) == len(set(names))


def test_what_all_arms_have_in_common_takes_no_column(page: Path, tmp_path: Path) -> None:
    arms = [replace(arm, batchnorms=[True], diverged=(), chance=()) for arm in SMALL]
    one = write_study(tmp_path / "one", arms, 3, epochs=3, length=180, data=DIGITS)
    heading = ">batch-norm</span></th>"
    assert heading in page.read_text()
    alike = report(one, Console(quiet=True))[0].read_text()
    assert heading not in alike
    assert "batchnorm.enabled=on" in alike.partition("<dt>all runs</dt>")[2].partition("</dd>")[0]


def test_long_names_break_between_an_option_and_its_value(tmp_path: Path) -> None:
    """And nowhere else; whatever the name is, it is text."""
    for seed in range(2):
        for method, options in (("fixed", {"fixed_lambda": 5e-4}), ("<img src=x>", {})):
            with autol2.record("own", method=method, seed=seed, outputs=tmp_path, **options) as run:
                run.epoch(1, test_accuracy=60 + seed)
    page = report(tmp_path / "own", Console(quiet=True))[0].read_text()
    assert "&lt;img src=<wbr>x&gt;</th>" in page
    assert "<img" not in page
    assert ">λ = 5e-4</th>" in page


@pytest.mark.slow
def test_text_is_escaped(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small"
    shutil.copytree(page.parents[1], copy, ignore=shutil.ignore_patterns("report"))
    folder = records(copy)[0].folder
    evil = "<script>window.hacked = true</script><img src=x onerror='window.hacked = true'>"
    state = {**read_state(folder), "status": "failed", "error": f"ValueError: {evil}"}
    (folder / "run.json").write_text(json.dumps({**state, "command": evil}))
    written, _ = report(copy, Console(quiet=True))
    assert html.escape(evil).replace("&#x27;", "&#39;") in written.read_text()
    found = look(written, tmp_path)
    assert found["hacked"] is False
    assert found["errors"] == []


@pytest.mark.slow
def test_a_hundred_runs_make_a_page_of_no_more_than_a_megabyte_and_a_half(tmp_path: Path) -> None:
    """The paper's arms over 200 epochs, six seeds each: 108 runs."""
    study = write_study(tmp_path / "paper", PAPER, seeds=6, epochs=200)
    written, _ = report(study, Console(quiet=True))
    assert written.stat().st_size < 1.5e6
    titles = re.findall(r"<h3>(.*?)</h3>", written.read_text())
    assert len(titles) > 12
    assert len(set(titles)) == len(titles), "two figures are called alike"


def test_no_difference_in_speed_of_an_arm_that_never_reaches_the_target() -> None:
    """It would be one of training lengths."""
    arm: dict[str, Any] = {"arm": "a", "batchnorm": True, "target": 70.0, "reached_target": 1}
    arm |= {f"epochs_to_target_difference{end}": 0.5 for end in ("", "_low", "_high")}
    table = _speed(pd.DataFrame([arm, {**arm, "arm": "b", "reached_target": 0}]))
    place = [heading for heading, *_ in table["headings"]].index("difference (epochs)")
    assert [row[place][0] for row in table["rows"]] == ["+0.50", "–"]
