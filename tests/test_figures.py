"""Figures of studies that nobody trained: what is in them, and that it can be seen."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from autol2.report import figures, panels, plot
from autol2.report.colours import BLACK, CURVES, DARK, GRID, VISIBLE, WHITE, contrast, on_dark, ramp
from autol2.report.figures import PAPER
from autol2.report.markup import markup, variables
from autol2.report.plot import Curve, Drawing
from autol2.report.published import published
from autol2.report.runs import Curves, curves
from autol2.report.tables import Tables, tables
from autol2.report.words import arm_name, setting
from autol2.sweeps.study import records

from .conftest import PROJECT
from .synthetic import CIFAR10, DIGITS, Arm, write_study

FEW = [
    Arm("fixed", 72.0, 1e-5),
    Arm("fixed", 73.0, 5e-4),
    Arm("auto_l2", 72.4, delay=1),
    Arm("advance", 73.6, delay=3),
]


def read(folder: Path) -> tuple[Tables, dict[str, Curves]]:
    found = list(curves(records(folder), folder / ".cache"))
    return tables(found), {record.run_id: history for record, history in found}


def draw(folder: Path, arms: list[Arm], data: dict = DIGITS, **sizes: int) -> list[Drawing]:
    write_study(folder / "study", arms, data=data, **{"seeds": 3, "epochs": 12, **sizes})
    made, histories = read(folder / "study")
    marks = published() if data is CIFAR10 else published()[:0]
    return figures.all_figures(made, histories, 391, marks, folder, lambda _: None)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    found = draw(tmp_path_factory.mktemp("figures"), FEW, CIFAR10)
    return {drawing.name: drawing for drawing in found}


def words(drawing: Drawing) -> str:
    """What can be found in it with a browser's search."""
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg.read_text()))


@pytest.mark.slow
def test_the_papers_figures_are_for_its_data_alone(
    drawings: dict[str, Drawing], tmp_path: Path
) -> None:
    """CIFAR-10 has those that the runs suffice for; digits have one of methods instead."""
    assert {"figure2", "figure3"} <= set(drawings)
    assert "figure1" not in drawings  # no threshold
    names = {one.name for one in draw(tmp_path, FEW[1:], DIGITS)}
    assert not any(name.startswith("figure") for name in names)
    assert {"method", "differences", "accuracies", "accuracies_2", "explain"} <= names


def test_what_is_compared_is_in_a_figure(drawings: dict[str, Drawing]) -> None:
    """Differences with their intervals, each seed, interquartile means, chances of improvement."""
    text = words(drawings["differences"])
    assert "difference in test accuracy (points)" in text
    assert "probability" in text
    assert re.search(r"[+-]\d\.\d\d \([+-]\d\.\d\d to [+-]\d\.\d\d\), p = ", text)
    assert "against λ = 5e-4, 3 seeds" in text
    assert "interquartile mean and its 95 % interval" in words(drawings["accuracies"])
    assert "epochs to" in words(drawings["speed"])
    assert "mean test accuracy over training" in words(drawings["area"])
    assert "steps to the best accuracy" in words(drawings["best_step"])


def test_legends_speak_as_people_do(drawings: dict[str, Drawing]) -> None:
    text = words(drawings["figure3"])
    assert "λ = 1e-5" in text
    assert "fixed_lambda" not in text
    assert "1e-05" not in text
    assert setting("fixed_lambda.value", 1e-5) == "λ = 1e-5"
    assert setting("alpha.percent", 5.0) == "α = 5 %"
    assert setting("lr", 0.1) == "lr = 0.1"
    assert arm_name("fixed λ 0.0005 lr=0.1") == "λ = 5e-4 lr=0.1"
    assert arm_name("decoupled λ 1e-05") == "decoupled λ = 1e-5"
    assert arm_name("threshold 5 %") == "threshold 5 %"


def test_captions_say_what_a_band_and_a_line_are(drawings: dict[str, Drawing]) -> None:
    caption = drawings["figure2"].caption
    assert "Line: mean of 3 seeds. Band: 95 % interval of that mean (t distribution)" in caption
    assert "its end enlarged" in caption


def test_single_runs_never_pass_for_means(drawings: dict[str, Drawing]) -> None:
    """Figure 4 shows two seeds of one arm beside means."""
    text = words(drawings["figure4"])
    assert "Advance L2, seed 0 (one run)" in text
    assert "Advance L2, second attempt, seed 1 (one run)" in text
    assert "λ = 5e-4 (mean of 3)" in text


def test_rows_without_batch_norm_come_first(drawings: dict[str, Drawing]) -> None:
    for name in ("figure2", "figure3"):
        text = words(drawings[name])
        assert text.index("CNN ") < text.index("CNN with batch-norm")
    text = words(drawings["differences"])
    assert text.index("without batch-norm") < text.index("with batch-norm", len("with batch-norm"))


def test_alt_texts_say_what_is_seen(drawings: dict[str, Drawing]) -> None:
    for drawing in drawings.values():
        assert drawing.alt != drawing.caption
        assert re.search(r"λ = 5e-4|Auto L2 |λ = 1e-5", drawing.alt), drawing.alt
        assert re.search(r"\d", drawing.alt)
    assert re.search(r"At the end: CNN: .*Advance L2 \d+", drawings["figure2"].alt)


def test_figures_are_there_as_png_and_svg(drawings: dict[str, Drawing]) -> None:
    for drawing in drawings.values():
        image = Image.open(drawing.png)
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(10**7)) > 50
        assert drawing.svg.read_text().rstrip().endswith("</svg>")


# ---------------------------------------------------------------------- colours


def test_colours_are_seen_on_white_and_on_dark() -> None:
    for colour in (*CURVES, *ramp(12)):
        assert contrast(colour, WHITE) >= VISIBLE, colour
        assert contrast(on_dark(colour), BLACK) >= VISIBLE, colour
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert len({DARK[colour] for colour in CURVES}) == len(set(CURVES)) == len(CURVES)


def test_every_arm_of_the_paper_has_its_own_colour(tmp_path: Path) -> None:
    arms = pd.Series([line.arm for _, lines in PAPER.values() for line in lines] + ["fixed λ 0"])
    colours = figures._colours_of(arms)
    assert len(set(colours.values())) == len(colours) == 9
    for _, lines in PAPER.values():
        names = [line.arm + "again" * (line.attempt - 1) for line in lines]
        styles = figures._styles(names, arms)
        for looks in zip(*styles.values(), strict=True):
            assert len(set(looks)) == len(lines)


def test_curves_differ_where_there_are_many() -> None:
    many = [f"fixed λ {place}" for place in range(1, 40)]
    styles = figures._styles(many[:10], pd.Series(many))
    assert len({colour for colour, _ in styles.values()}) == 10
    ordered = figures._in_order_of_values([float(place) for place in range(8)])
    assert len({colour for colour, _ in ordered.values()}) == 8


def test_a_dark_page_has_dark_figures(drawings: dict[str, Drawing]) -> None:
    """No colour in the page's figures is fixed: each is a variable with a value for both."""
    drawing = drawings["figure2"]
    svg = markup(drawing)
    assert not re.search(r": #[0-9a-f]{6}", svg)
    used = set(re.findall(r"var\((--c[0-9a-f]{6})\)", svg))
    known = variables([drawing])
    assert used <= set(known)
    for light, dark in known.values():
        if light not in (WHITE, GRID):
            assert contrast(light, WHITE) >= VISIBLE
            assert contrast(dark, BLACK) >= VISIBLE


def test_figures_of_one_page_do_not_share_names(drawings: dict[str, Drawing]) -> None:
    pieces = [set(re.findall(r' id="([^"]+)"', markup(one))) for one in drawings.values()]
    for one, other in combinations(pieces, 2):
        assert not one & other
    for drawing in drawings.values():
        svg = markup(drawing)
        referred = set(re.findall(r'(?:url\(#|href="#)([\w-]+)', svg))
        assert referred <= set(re.findall(r' id="([^"]+)"', svg))


def test_published_runs_are_marked() -> None:
    """Crosses at the epochs whose accuracy is known, as far as is shown; λ drawn dashed."""
    marks = published().query("method == 'advance' and batchnorm == 'on' and attempt == 1")
    curve = Curve("Advance L2", "#000000", "-", [], marks)
    for reach, epochs in ((200, [1, 10, 50, 100, 200]), (99.5, [1, 10, 50])):
        accuracy, lambdas = Figure().subplots(1, 2)
        panels._accuracy(accuracy, curve, reach, None)
        crosses = accuracy.lines[-1]
        assert list(crosses.get_xdata()) == epochs
        assert list(crosses.get_ydata())[:3] == [24.68, 58.49, 76.4]
        assert (crosses.get_marker(), crosses.get_linestyle()) == ("x", "None")
        panels._lambda(lambdas, curve, 391)
        (path,) = lambdas.lines
        assert path.is_dashed()
        assert list(path.get_ydata()) == [0.1, 1, 10, 1, 0.1, 0.01, 0.001, 0.0001, 0.0001]
        assert path.get_xdata()[1] == pytest.approx(20 / 391)


# ---------------------------------------------------------------------- runs that ended


def test_runs_that_ended_are_in_no_mean(tmp_path: Path) -> None:
    """Two of six diverge: the curve is the mean of the other four, from its first to its end."""
    write_study(tmp_path, [Arm("fixed", 72.0, 5e-4, diverged=(1, 4))], seeds=6, epochs=12)
    made, histories = read(tmp_path)
    part = made.runs[made.runs["batchnorm"] == True]  # noqa: E712
    curve = figures._curve("fixed λ 0.0005", ("#0072b2", "solid"), part, histories)
    assert (len(curve.runs), len(curve.ended)) == (4, 2)
    frame = panels.over_seeds(curve, "test_accuracy")
    assert frame.shape == (12, 4)
    whole = part[part["status"] == "completed"]
    assert frame.iloc[-1].tolist() == pytest.approx(whole["final_test_accuracy"].tolist())


def test_running_runs_are_averaged_as_far_as_all_have_come(tmp_path: Path) -> None:
    history = [
        Curves(epochs={"epoch": [1.0, 2.0, 3.0][:done], "test_accuracy": [10.0, 20.0, 30.0][:done]})
        for done in (3, 2)
    ]
    frame = panels.over_seeds(Curve("x", "#000000", "solid", history), "test_accuracy")
    assert frame.index.tolist() == [1.0, 2.0]


def test_the_band_is_the_t_interval_of_the_mean() -> None:
    """Of 1, 2 and 3 it is 2 ± 4.3027/√3; of two runs there is none."""
    mean, low, high = plot.mean_and_band(np.array([[1.0], [2.0], [3.0]]))
    assert mean == pytest.approx([2])
    assert [*low, *high] == pytest.approx([2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5], abs=1e-4)
    assert np.isnan(plot.mean_and_band(np.array([[1.0], [2.0]]))[1]).all()


def test_the_end_of_training_is_enlarged(tmp_path: Path) -> None:
    axes = Figure().subplots()
    near = [
        Curves(epochs={"epoch": [9.0, 10.0], "test_accuracy": [level, level]})
        for level in (72.0, 72.4)
    ]
    lost = Curves(epochs={"epoch": [9.0, 10.0], "test_accuracy": [10.0, 10.0]})
    drawn = [Curve("near", "#000000", "solid", near), Curve("lost", "#000000", "solid", [lost])]
    assert panels._close_up(axes, drawn, 9.0, 10.0)  # one is left out
    low, high = axes.get_ylim()
    assert 71 < low < 72.2 < high < 73
    assert panels._end([[1.0, 2.0, 3.0]], 3.0) is None
    assert panels._end([[float(epoch) for epoch in range(1, 201)]], 200.0) == 150


def test_many_comparisons_are_several_drawings(tmp_path: Path) -> None:
    """Five learning rates, two methods, with and without batch-norm: two rows in each drawing."""
    arms = [
        Arm(method, 70.0 + lr, number, options={"lr": lr})
        for lr in (0.01, 0.02, 0.05, 0.1, 0.2)
        for method, number in (("fixed", 5e-4), ("auto_l2", None))
    ]
    write_study(tmp_path / "study", arms, seeds=1, epochs=3, data=DIGITS)
    made, histories = read(tmp_path / "study")
    rows = figures._axis_rows(made.runs, histories, "method.name", made)
    assert len(rows) == 10
    assert [heading for heading, _ in rows[:2]] == [
        "CNN, lr = 0.01",
        "CNN with batch-norm, lr = 0.01",
    ]


def test_a_value_looks_the_same_in_every_row(tmp_path: Path) -> None:
    """One legend is for all: lengths that each λ has another set of, as in original_1a."""
    arms = [
        Arm("fixed", 70.0, number, options={"epochs": epochs})
        for number, lengths in ((1e-3, (2, 4)), (5e-4, (4, 8)))
        for epochs in lengths
    ]
    write_study(tmp_path / "study", arms, seeds=1, epochs=2, data=DIGITS)
    made, histories = read(tmp_path / "study")
    rows = figures._axis_rows(made.runs, histories, "epochs", made)
    styles: dict[str, set[object]] = {}
    for _, of_row in rows:
        for curve in of_row:
            styles.setdefault(curve.label, set()).add((curve.colour, curve.dashes))
    assert sorted(styles) == ["epochs = 2", "epochs = 4", "epochs = 8"]
    assert all(len(one) == 1 for one in styles.values())


# ---------------------------------------------------------------------- settings of the user


@pytest.mark.slow
def test_figures_have_settings_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LaTeX that is not there, serifs and huge letters change nothing, and stay as they are."""
    plain = {one.name: one for one in draw(tmp_path / "plain", FEW[1:3], seeds=1, epochs=2)}
    theirs = {"text.usetex": True, "font.family": "serif", "font.size": 30.0, "savefig.dpi": 10}
    with mpl.rc_context(theirs):
        other = {one.name: one for one in draw(tmp_path / "other", FEW[1:3], seeds=1, epochs=2)}
        assert {name: mpl.rcParams[name] for name in theirs if name != "font.family"} == {
            name: value for name, value in theirs.items() if name != "font.family"
        }
    assert plain.keys() == other.keys()
    for name in plain:
        assert plain[name].svg.read_bytes() == other[name].svg.read_bytes(), name
        assert plain[name].png.read_bytes() == other[name].png.read_bytes(), name


def test_a_backend_of_jupyter_is_not_asked_for(tmp_path: Path) -> None:
    """With what Jupyter hands down to its shells, and a matplotlibrc that wants LaTeX."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\n")
    code = f"""
from pathlib import Path
from autol2.report import plot
with plot.settings():
    figure = plot.new_figure(1)
    figure.subplots().set_title("λ")
    plot.save(figure, "x", "", "", "", Path({str(tmp_path)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "MPLCONFIGDIR": str(tmp_path),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONPATH": str(PROJECT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").exists()


def test_the_end_shows_dips_and_marks_and_few_bands() -> None:
    def limits(curves: list[Curve], since: float, reach: float) -> tuple[float, float]:
        axes = Figure().subplots()
        panels._close_up(axes, curves, since, reach)
        return axes.get_ylim()

    for dip, (least, most) in ((55.0, (50, 55)), (10.0, (45, 51))):  # 20 points below at most
        run = Curves(epochs={"epoch": [8.0, 9.0, 10.0], "test_accuracy": [70.0, dip, 71.0]})
        low, _ = limits([Curve("a", "#000000", "-", [run])], 8.0, 10.0)
        assert least < low < most
    marks = published().query("method == 'advance' and batchnorm == 'on' and attempt == 1")
    at = float(marks[panels.MARKS[200]].iloc[0])
    run = Curves(epochs={"epoch": [160.0, 200.0], "test_accuracy": [at - 4, at - 4]})
    low, high = limits([Curve("a", "#000000", "-", [run], marks)], 150.0, 200.0)
    assert at - 5 < low < at - 4
    assert at < high < at + 1
    wide = [
        Curves(epochs={"epoch": [9.0, 10.0], "test_accuracy": [level, level]})
        for level in (70.0, 71.0, 72.0)
    ]
    for many, banded in ((panels.CROWDED - 1, True), (panels.CROWDED, False)):
        curves = [Curve(str(number), "#000000", "-", wide) for number in range(many)]
        low, high = limits(curves, 9.0, 10.0)
        assert (high - low > 4) == banded


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("fixed λ 1e-05 scale=0.1", "λ = 1e-5, weights × 0.1 at the start"),
        ("fixed λ 0.01 parameters=convolutions scale=2", "λ = 0.01, convolutions × 2 at the start"),
        ("fixed λ 0.01 lr_factor=3", "λ = 0.01, lr × 3"),
        ("fixed λ 0.01 parameters=convolutions lr_factor=3", "λ = 0.01, lr × 3 of convolutions"),
        ("fixed λ 0.01 pulse_height=3 pulse_length=30", "λ = 0.01, λ = 3 for 30 steps"),
        ("fixed λ 0.01 pulse_length=1", "λ = 0.01, λ = 0 for 1 step"),
        ("fixed λ 0.01 penalized=weights", "λ = 0.01, penalty on weights only"),
    ],
)
def test_controls_in_words(label: str, said: str) -> None:
    assert arm_name(label) == said
