"""The λ rules, case by case, and what must hold of any of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autol2.rules.controller import Controller
from autol2.rules.rule import METHODS, PROTOCOLS, Rule

ADAPTIVE = METHODS[1:]
PAPER = PROTOCOLS[:3]
"""The protocols that have all methods."""
K = 5


def lambdas(rule: Rule, measurements: list[tuple[float, float]], epoch: int = 10**6) -> list[float]:
    """λ after each of `measurements` (loss, accuracy), taken every fifth step."""
    controller = Controller(rule)
    after = []
    for number, (loss, accuracy) in enumerate(measurements, 1):
        step = number * K
        decision = controller.measure(loss, accuracy, step, (step - 1) % epoch + 1)
        assert decision.lambda_ == controller.lambda_
        after.append(round(decision.lambda_, 12))
    return after


def losses(*values: float) -> list[tuple[float, float]]:
    """Measurements of which only the loss says anything (the error halves each time)."""
    return [(loss, 100 - 90 * 0.5**number) for number, loss in enumerate(values)]


# ---------------------------------------------------------------------- published


@pytest.mark.parametrize(
    ("method", "alpha", "measurements", "expected"),
    [
        # Two measurements in a row no better than the first: λ decays at the third.
        ("auto_l2", 0, [(2, 10), (3, 9), (3, 9)], [0.1, 0.1, 0.01]),
        # A tie counts as worse.
        ("auto_l2", 0, [(2, 10), (2, 20), (2, 20)], [0.1, 0.1, 0.01]),
        ("auto_l2", 0, [(2, 10), (1, 10), (1, 10)], [0.1, 0.1, 0.01]),
        # Either signal will do, and not the same one both times.
        ("auto_l2", 0, [(2, 10), (3, 20), (1, 9)], [0.1, 0.1, 0.01]),
        # One good measurement in between prevents it.
        ("auto_l2", 0, [(2, 10), (3, 9), (1, 20)], [0.1, 0.1, 0.1]),
        ("auto_l2", 0, [(2, 10), (1, 20), (3, 9)], [0.1, 0.1, 0.1]),
        # The minimum takes in a measurement only one measurement later: at the fourth it is 1.5.
        ("auto_l2", 0, [(2, 10), (1.5, 20), (1.6, 30), (1.7, 15)], [0.1, 0.1, 0.1, 0.01]),
        ("auto_l2", 0, [(2, 10), (1.5, 20), (1.4, 30), (1.45, 15)], [0.1, 0.1, 0.1, 0.1]),
        # Loss and accuracy have minima of their own.
        ("auto_l2", 0, [(1, 10), (2, 30), (2, 20), (2, 20)], [0.1, 0.1, 0.01, 0.01]),
        # It never raises λ.
        ("auto_l2", 0, [(2, 10), (1, 20), (0.5, 30), (0.2, 40)], [0.1] * 4),
        # The threshold: 4 % worse is not worse by 5 %.
        ("threshold", 5, [(2, 10), (2.08, 9.7), (2.08, 9.7)], [0.1, 0.1, 0.1]),
        ("threshold", 5, [(2, 10), (2.1, 10), (2.1, 10)], [0.1, 0.1, 0.01]),
        ("threshold", 5, [(2, 10.5), (1, 10), (1, 10)], [0.1, 0.1, 0.01]),
        ("threshold", 5, [(2, 10.4), (1, 10), (1, 10)], [0.1, 0.1, 0.1]),
        # Better twice raises λ; a tie counts as worse first.
        ("advance", 0, [(2, 10), (1, 20), (0.5, 30)], [0.1, 0.1, 1]),
        ("advance", 0, [(2, 10), (2, 10), (2, 10)], [0.1, 0.1, 0.01]),
        # After a raise M is replaced by the measurement before it, worse though it be:
        # M = (3, 20), so that (2.9, 21), (2.8, 22) are better than it.
        ("advance", 0, [(2, 10), (3, 20), (1, 30), (2.9, 21)], [0.1, 0.1, 1, 10]),
        # Outside of the cool-down nothing else moves M: it stays (2, 10), so (1.9, 11) is better.
        (
            "advance",
            0,
            [(2, 10), (1, 20), (3, 5), (1.9, 11), (1.9, 11)],
            [0.1, 0.1, 0.1, 0.1, 1],
        ),
        ("combined", 5, [(2, 10), (1.95, 10.2), (1.95, 10.2)], [0.1, 0.1, 0.1]),
        ("combined", 5, [(2.1, 10), (2, 10.2), (2, 10.2)], [0.1, 0.1, 1]),
        ("combined", 5, [(2, 10), (3, 10.5), (3, 10.5)], [0.1, 0.1, 0.01]),
        ("combined", 5, [(2, 10), (2.05, 10.5), (2.05, 10.5)], [0.1, 0.1, 1]),
    ],
)
def test_published(
    method: str, alpha: float, measurements: list[tuple[float, float]], expected: list[float]
) -> None:
    assert lambdas(Rule(method, "published", alpha), measurements) == expected


def test_published_cools_down() -> None:
    """λ = 0.01 at clock 14, so that it rests until 14 + 0.1 / 0.01 = 24: at steps 20 and 25."""
    worse = [(2, 10)] + [(3, 9)] * 6
    assert lambdas(Rule("auto_l2"), worse) == [0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001]


def test_published_minimum_follows_during_the_cool_down() -> None:
    """advance: at steps 20 and 25, cooling down, M takes in (3, 9) and then (1, 50)."""
    measurements = [(2, 10), (3, 9), (3, 9), (1, 50), (1.5, 40), (1.5, 40)]
    assert lambdas(Rule("advance"), measurements)[-2:] == [0.01, 0.001]


def test_published_clock_falls_back_each_epoch() -> None:
    """With epochs of 15 steps the clock never passes 24, so λ can never move again."""
    worse = [(2, 10)] + [(3, 9)] * 60
    assert lambdas(Rule("auto_l2"), worse, epoch=15)[2:] == [0.01] * 59
    assert min(lambdas(Rule("auto_l2"), worse)) < 0.01


# ---------------------------------------------------------------------- pseudocode and corrected


@pytest.mark.parametrize(
    ("method", "alpha", "measurements", "expected"),
    [
        # Ties are no increase, and the minimum is still ∞ when the second measurement is compared.
        ("auto_l2", 0, losses(2, 2, 2, 2), [0.1] * 4),
        ("auto_l2", 0, losses(2, 3, 3), [0.1, 0.1, 0.01]),
        # The same signal must hold twice: a worse loss, then a worse error is not enough.
        ("auto_l2", 0, [(2, 10), (3, 20), (1, 5), (1, 5)], [0.1, 0.1, 0.1, 0.01]),
        # A change leaves the minimum as it was: 2.5, then 2.4 are still above 2.
        (
            "auto_l2",
            0,
            losses(2, 3, 3, 1.5, 2.5, 2.4, 2.4),
            [0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001],
        ),
        ("threshold", 5, losses(2, 2.09, 2.09), [0.1, 0.1, 0.1]),
        ("threshold", 5, losses(2, 2.11, 2.11), [0.1, 0.1, 0.01]),
        # With raising, everything is below ∞, and so on for ever (algorithms as printed).
        ("advance", 0, losses(2, 3, 4, 5, 6), [0.1, 1, 10, 100, 1000]),
        ("combined", 5, losses(2, 3, 4, 5, 6), [0.1, 1, 10, 100, 1000]),
    ],
)
def test_pseudocode(
    method: str, alpha: float, measurements: list[tuple[float, float]], expected: list[float]
) -> None:
    assert lambdas(Rule(method, "pseudocode", alpha), measurements) == expected


@pytest.mark.parametrize(
    ("method", "alpha", "measurements", "expected"),
    [
        ("auto_l2", 0, losses(2, 3, 3), [0.1, 0.1, 0.01]),
        ("auto_l2", 0, losses(2, 2, 2), [0.1, 0.1, 0.1]),
        # No test before the third measurement.
        ("advance", 0, losses(2, 1), [0.1, 0.1]),
        ("advance", 0, losses(2, 1, 1.5), [0.1, 0.1, 1]),
        ("advance", 0, [(2, 10), (1, 10), (3, 10), (0.5, 10)], [0.1, 0.1, 0.1, 0.1]),
        # The minimum takes in a measurement although λ moved: 1.4 is not below 1.
        ("advance", 0, [(2, 10), (1, 10), (1.5, 10), (1.4, 10)], [0.1, 0.1, 1, 0.1]),
        ("combined", 5, [(2, 10), (1.95, 10), (1.95, 10)], [0.1, 0.1, 0.1]),
        ("combined", 5, [(2, 10), (1.9, 10), (1.9, 10)], [0.1, 0.1, 1]),
        ("combined", 5, [(2, 10), (3, 15), (3, 15)], [0.1, 0.1, 0.01]),  # worse comes first
        ("combined", 5, [(2, 10), (2, 15), (2, 15)], [0.1, 0.1, 1]),  # errors 90, 85: 5.9 %
    ],
)
def test_corrected(
    method: str, alpha: float, measurements: list[tuple[float, float]], expected: list[float]
) -> None:
    assert lambdas(Rule(method, "corrected", alpha), measurements) == expected


def test_their_clock_runs_through() -> None:
    worse = [(2, 10)] + [(3, 9)] * 60
    for protocol in ("pseudocode", "corrected"):
        rule = Rule("auto_l2", protocol)
        assert lambdas(rule, worse, epoch=15) == lambdas(rule, worse)
        # 0.01 from step 15 rests until 25; 0.001 from 30 until 130; 1e-4 from 135 until 1135
        assert lambdas(rule, worse)[4:7] == [0.01, 0.001, 0.001]
        assert lambdas(rule, worse)[25:28] == [0.001, 0.0001, 0.0001]


def test_only_corrected_has_an_upper_bound_by_default() -> None:
    assert Rule("advance", "corrected") == Rule("advance", "corrected", lambda_max=10)
    for protocol in ("published", "pseudocode"):
        assert Rule("advance", protocol) == Rule("advance", protocol, lambda_max=math.inf)
    better = losses(*(2 * 0.9**number for number in range(12)))
    assert max(lambdas(Rule("advance", "corrected"), better)) == 10


@pytest.mark.parametrize("protocol", PAPER)
def test_a_decay_that_the_bound_stops_is_no_raise(protocol: str) -> None:
    """The loss gets worse while the error gets better: worse comes first, at λ_min as elsewhere."""
    rule = Rule("advance", protocol, initial_lambda=0.1, lambda_min=0.1)
    if protocol == "pseudocode":  # there, λ rises at the second measurement, whatever it is
        rule = Rule("auto_l2", protocol, lambda_min=0.1)
    controller = Controller(rule)
    for n, (loss, accuracy) in enumerate([(2, 10), (3, 20), (3, 30)], 1):
        decision = controller.measure(loss, accuracy, K * n, K * n)
    assert (decision.lambda_, decision.event) == (0.1, "none")
    assert decision.reason.startswith("λ = 0.1 cannot fall: loss 3")


def test_a_rounding_error_beyond_the_bound_is_no_decay() -> None:
    """0.1 · 0.1 = 0.010000000000000002: at the bound of 0.01, and not to decay to it again."""
    controller = Controller(Rule("auto_l2", lambda_min=0.01))
    trace = [(2, 10)] + [(3, 9)] * 20
    events = [
        controller.measure(loss, accuracy, K * n, K * n).event
        for n, (loss, accuracy) in enumerate(trace, 1)
    ]
    assert events == ["none", "none", "decayed"] + ["none"] * 18


def test_what_stops_lambda_is_the_reason() -> None:
    """At the bound, beyond the largest float, and at 0, which no factor changes."""
    for protocol, initial, highest in (
        ("corrected", 1, 1),
        ("published", 1e308, math.inf),
        ("published", 0, math.inf),
    ):
        controller = Controller(
            Rule("advance", protocol, initial_lambda=initial, lambda_max=highest, cooldown=0)
        )
        for n, (loss, accuracy) in enumerate(losses(2, 1.5, 1), 1):
            decision = controller.measure(loss, accuracy, K * n, K * n)
        assert (decision.lambda_, decision.event) == (initial, "none")
        assert decision.reason.startswith(f"λ = {initial:g} cannot rise: loss 1.5")


def test_bounds_stop_a_change() -> None:
    rule = Rule("advance", "corrected", lambda_max=1)
    better = losses(*(2 * 0.9**number for number in range(12)))
    assert max(lambdas(rule, better)) == 1
    assert min(lambdas(Rule("auto_l2", lambda_min=0.05), losses(2, 3, 3, 3))) == 0.05
    controller = Controller(rule)
    events = [
        controller.measure(loss, accuracy, 5 * n, 5 * n).event
        for n, (loss, accuracy) in enumerate(better, 1)
    ]
    assert events.count("raised") == 1
    assert Controller(Rule("auto_l2", lambda_max=0.03)).lambda_ == 0.03


def test_raises_when_converged() -> None:
    """The third measurement in a row without a new minimum, outside of the cool-down."""
    rule = Rule("auto_l2", "corrected", raise_when_converged=3)
    flat = [(2.0, 10.0)] * 8
    assert lambdas(rule, flat) == [0.1, 0.1, 0.1, 1, 1, 1, 10, 10]
    decision = [
        Controller.measure(controller, 2.0, 10.0, 5 * n, 5 * n)
        for controller in [Controller(rule)]
        for n in range(1, 5)
    ][-1]
    assert decision.event == "raised"
    assert "converged" in decision.reason
    cooling = Rule("auto_l2", "corrected", raise_when_converged=3, cooldown=100)
    assert lambdas(cooling, flat * 30)[:23] == [0.1] * 3 + [1] * 20
    assert Rule("auto_l2").raise_when_converged == 0


@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_what_counts_as_converged(protocol: str) -> None:
    """α = 50 % keeps the threshold out of it, and at λ = 1 the cool-down is short."""
    rule = Rule("threshold", protocol, alpha=50, initial_lambda=1, raise_when_converged=3)
    flat = [(2.0, 50.0)] * 3
    for best, last in (((1.9, 50.0), 1), ((2.0, 51.0), 1), ((2.0, 50.0), 10), ((2.1, 49.0), 10)):
        assert lambdas(rule, [*flat, best])[-1] == last, best
    assert lambdas(rule, [*flat, (math.nan, 50.0)])[-1] == 10  # no improvement
    # A change of another kind starts the count anew: λ decays at the third measurement, and 3
    # measurements without a new minimum follow it before λ is raised.
    rule = Rule("auto_l2", protocol, initial_lambda=10, lambda_min=1, raise_when_converged=3)
    measurements = [(2.0, 50.0), (3.0, 40.0), (3.0, 40.0), (1.5, 60.0)]
    after = lambdas(rule, [*measurements, (1.4, 59.0), (1.45, 58.0)])
    assert after == [10, 10, 1, 1, 1, 1]


def test_the_count_goes_on_during_the_cool_down() -> None:
    """λ = 0.01 from step 15 rests until 25. At step 30, worse than the minimum, it would decay;
    the bound stops that, and of the three measurements needed since, all but one were at rest."""
    rule = Rule("auto_l2", "corrected", lambda_min=0.01, raise_when_converged=3)
    worse = [(2.0, 50.0)] + [(3.0, 40.0)] * 6
    assert lambdas(rule, worse) == [0.1, 0.1, 0.01, 0.01, 0.01, 0.1, 0.01]


def test_reasons_name_the_figures() -> None:
    controller = Controller(Rule("threshold", alpha=5))
    for n, loss in enumerate((2.0, 2.2, 2.5), 1):
        decision = controller.measure(loss, 50 + n, 5 * n, 5 * n)
    assert (decision.event, decision.reason) == (
        "decayed",
        "loss 2.2 ≥ 2 · 1.05, then loss 2.5 ≥ 2 · 1.05",
    )
    assert "cooling down until step" in controller.measure(2, 50, 20, 20).reason


# ---------------------------------------------------------------------- what must always hold

values = st.floats(-10, 10) | st.sampled_from([math.nan, math.inf, 0.0, 2.0, 2.1])
accuracies = st.integers(0, 128).map(lambda hits: 100 * hits / 128) | st.just(math.nan)
traces = st.lists(st.tuples(values, accuracies), min_size=1, max_size=60)
rules = st.builds(
    lambda method_and_protocol, **options: Rule(*method_and_protocol, **options),
    st.sampled_from([(m, p) for m in ADAPTIVE for p in PAPER] + [("auto_l2", "original")]),
    alpha=st.sampled_from([0.0, 5.0, 10.0, 50.0]),
    initial_lambda=st.sampled_from([0.0, 1e-3, 0.1, 5.0]),
    decay_factor=st.sampled_from([0.1, 0.5, 0.9]),
    cooldown=st.sampled_from([0.0, 0.1, 3.0]),
    lambda_min=st.sampled_from([0.0, 1e-3]),
    lambda_max=st.sampled_from([0.2, 10.0, math.inf]),
    raise_when_converged=st.sampled_from([0, 1, 4]),
)


def replayed(rule: Rule, trace: list[tuple[float, float]], epoch: int) -> list[tuple]:
    controller = Controller(rule)
    return [
        (before, controller.measure(loss, accuracy, K * n, (K * n - 1) % epoch + 1), controller)
        for n, (loss, accuracy) in enumerate(trace, 1)
        for before in [controller.lambda_]
    ]


@given(rules, traces, st.sampled_from([23, 391]))
def test_lambda_stays_within_its_bounds(rule: Rule, trace: list, epoch: int) -> None:
    for before, decision, _ in replayed(rule, trace, epoch):
        assert rule.lambda_min <= decision.lambda_ <= rule.lambda_max
        assert math.isfinite(decision.lambda_)
        assert (decision.event == "none") == (decision.lambda_ == before)
        assert (decision.event == "raised") == (decision.lambda_ > before)
        assert decision.reason


@given(rules, traces, st.sampled_from([23, 391]))
def test_the_cool_down_is_kept(rule: Rule, trace: list, epoch: int) -> None:
    bound = 0.0
    if rule.protocol == "original":
        first = Controller(rule).lambda_
        bound = rule.cooldown / first if first else math.inf
    for n, (_, decision, _) in enumerate(replayed(rule, trace, epoch), 1):
        step = K * n
        clock = (step - 1) % epoch if rule.protocol == "published" else step
        clock -= rule.protocol == "original"
        if decision.event != "none":
            assert clock > bound
            bound = clock + (rule.cooldown / decision.lambda_ if decision.lambda_ else math.inf)


@given(rules, traces, st.data())
def test_nan_is_never_an_improvement(rule: Rule, trace: list, data: st.DataObject) -> None:
    """λ is not raised for a measurement that is NaN, and NaN never becomes the minimum."""
    controller = Controller(rule)
    for n, (loss, accuracy) in enumerate(trace, 1):
        if data.draw(st.booleans()):
            loss = math.nan
        decision = controller.measure(loss, accuracy, K * n, K * n)
        if math.isnan(loss):  # a NaN accuracy is one that was not measured
            assert decision.event != "raised" or "converged" in decision.reason
            if rule.protocol == "corrected":
                assert decision.event == "none" or "converged" in decision.reason
        state = controller.state_dict()
        assert not any(math.isnan(float(one)) for one in state["minimum"] + state["best"])


def test_an_accuracy_that_was_not_measured_is_no_minimum() -> None:
    """Also where the published rule begins its minimum anew, after raising λ."""
    controller = Controller(Rule("combined", "published", alpha=0, cooldown=0, initial_lambda=1e-3))
    for n, (loss, accuracy) in enumerate([(0, None), (0, None), (-1, None), (-2, 50), (-2, 60)], 1):
        event = controller.measure(loss, accuracy, K * n, K * n).event
        assert event == ("raised" if n == 3 else event)
    assert controller.state_dict()["minimum"][1] in (50.0, 60.0, "-inf")


@given(rules, traces, st.integers(0, 60), st.sampled_from([23, 391]))
def test_state_survives_saving(rule: Rule, trace: list, cut: int, epoch: int) -> None:
    whole = [decision for _, decision, _ in replayed(rule, trace, epoch)]
    controller, pieces = Controller(rule), []
    for n, (loss, accuracy) in enumerate(trace, 1):
        if n == cut:
            saved = json.loads(json.dumps(controller.state_dict(), allow_nan=False))
            controller = Controller(rule)
            controller.load_state_dict(saved)
        pieces.append(controller.measure(loss, accuracy, K * n, (K * n - 1) % epoch + 1))
    assert pieces == whole


@given(traces, st.sampled_from(PAPER), st.sampled_from([23, 391]))
def test_alpha_zero_is_no_threshold(trace: list, protocol: str, epoch: int) -> None:
    for with_threshold, without in (("threshold", "auto_l2"), ("combined", "advance")):
        one = replayed(Rule(with_threshold, protocol, alpha=0), trace, epoch)
        other = replayed(Rule(without, protocol, alpha=50), trace, epoch)
        assert [row[1] for row in one] == [row[1] for row in other]


@given(traces, st.sampled_from(PROTOCOLS))
def test_fixed_is_fixed(trace: list, protocol: str) -> None:
    for _, decision, _ in replayed(Rule("fixed", protocol, fixed_lambda=3e-4), trace, 391):
        assert (decision.lambda_, decision.event) == (3e-4, "none")


# ---------------------------------------------------------------------- original


@pytest.mark.parametrize(
    ("measurements", "expected"),
    [
        # Steps 0, 10, 20, …: at the third measurement i = 20 > 0.1/0.1, and ties count as worse.
        ([(2, 10), (2, 20), (2, 30)], [0.1, 0.1, 0.01]),
        ([(2, 10), (1, 10), (0.5, 10)], [0.1, 0.1, 0.01]),
        ([(2, 10), (3, 9), (3, 9)], [0.1, 0.1, 0.01]),
        # The same signal twice: a worse loss, then a worse accuracy is not enough.
        ([(2, 10), (3, 20), (1, 9)], [0.1, 0.1, 0.1]),
        ([(2, 10), (1, 20), (3, 9)], [0.1, 0.1, 0.1]),
        # M takes in measurement j-1, but not where λ decays: M stays (2, 10), and at i = 40
        # (> 0.1/0.01 + 20 = 30) 2.5 and 2.4 are no better than 2.
        ([(2, 10), (3, 20), (3, 20), (2.5, 30), (2.4, 30)], [0.1, 0.1, 0.01, 0.01, 0.001]),
        # i = 30 is not beyond the bound of 30.
        ([(2, 10), (3, 9), (3, 9), (3, 9), (3, 9)], [0.1, 0.1, 0.01, 0.01, 0.001]),
        # Losses below 0 without a threshold.
        ([(-1, 10), (-0.5, 20), (-0.5, 30)], [0.1, 0.1, 0.01]),
        ([(-1, 10), (-1.5, 20), (-2, 30)], [0.1, 0.1, 0.1]),
    ],
)
def test_original(measurements: list[tuple[float, float]], expected: list[float]) -> None:
    controller, after = Controller(Rule("auto_l2", "original")), []
    for number, (loss, accuracy) in enumerate(measurements):
        decision = controller.measure(loss, accuracy, 10 * number + 1, 1)
        after.append(round(decision.lambda_, 12))
    assert after == expected


def as_released(
    measurements: Iterable[tuple[float, float]], lambda_: float, every: int
) -> list[tuple[int, float]]:
    """Steps and values of λ, as the rule is written in ../shared/algorithms.md."""
    losses: list[float] = []
    accuracies: list[float] = []
    least, most = math.inf, -math.inf
    changed, changes = 0, []
    for number, (loss, accuracy) in enumerate(measurements):
        step = number * every
        losses.append(loss)
        accuracies.append(accuracy)
        no_better = len(losses) > 2 and (min(losses[-2:]) >= least or max(accuracies[-2:]) <= most)
        if no_better and step > 0.1 / lambda_ + changed:
            lambda_, changed = lambda_ / 10, step
            changes.append((step, lambda_))
        elif len(losses) >= 2:
            least, most = min(least, losses[-2]), max(most, accuracies[-2])
    return changes


def as_ours(
    measurements: Iterable[tuple[float, float]], lambda_: float, every: int
) -> list[tuple[int, float]]:
    controller = Controller(Rule("auto_l2", "original", initial_lambda=lambda_))
    changes = []
    for number, (loss, accuracy) in enumerate(measurements):
        decision = controller.measure(loss, accuracy, number * every + 1, 1)
        if decision.event != "none":
            changes.append((number * every, decision.lambda_))
    return changes


def test_original_as_released_on_a_constant_loss() -> None:
    """0.1/λ is a whole number of steps: λ/10 is 0.001 where λ·0.1 would be a little more."""
    found = as_ours([(1.0, 50.0)] * 12_000, 0.1, 10)
    assert [step for step, _ in found] == [20, 40, 150, 1160, 11170, 111170]
    assert [f"{value:.0e}" for _, value in found][:4] == ["1e-02", "1e-03", "1e-04", "1e-05"]
    assert found == as_released([(1.0, 50.0)] * 12_000, 0.1, 10)


@pytest.mark.parametrize("lambda_", [0.1, 0.05, 0.2, 1.0, 0.03])
@pytest.mark.parametrize("every", [10, 5, 4, 1])
def test_original_as_released_on_any_measurements(lambda_: float, every: int) -> None:
    changes = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        count = int(rng.choice([30, 200, 1500]))
        losses = rng.integers(1, 4, count) + rng.random(count)
        accuracies = 100 * rng.integers(0, 129, count) / 128
        measurements = list(zip(losses.tolist(), accuracies.tolist(), strict=True))
        found = as_ours(measurements, lambda_, every)
        assert found == as_released(measurements, lambda_, every), seed
        changes += len(found)
    assert changes > 40


def test_original_rests_from_the_start() -> None:
    """i > 0.1/λ + i₀ holds for the first λ too: 0.001 rests until step 100."""
    rule = Rule("auto_l2", "original", initial_lambda=0.001)
    controller = Controller(rule)
    changed = [
        10 * number
        for number in range(30)
        if controller.measure(2, 10, 10 * number + 1, 1).event == "decayed"
    ]
    assert changed == [110]


@pytest.mark.parametrize("method", ["threshold", "advance", "combined"])
def test_original_is_auto_l2s(method: str) -> None:
    with pytest.raises(ValueError, match=f"protocol original has no method {method}"):
        Rule(method, "original")


# ---------------------------------------------------------------------- losses below 0


@pytest.mark.parametrize(
    ("losses_", "expected"),
    [
        ((-10, -10, -10.1), 0.1),  # better, but not by 5 %
        ((-10, -9.6, -9.6), 0.1),  # worse, but not by 5 %
        ((-10, -9.4, -9.4), 0.01),
        ((-10, -10.4, -10.4), 0.1),
        ((-10, -10.6, -10.6), 1),
        ((0, -1, -1), 1),
        ((0, 1, 1), 0.01),
        ((1, -1, -1), 1),
        ((-1, 1, 1), 0.01),
    ],
)
def test_a_minimum_below_zero(losses_: tuple[float, ...], expected: float) -> None:
    """α = 5 %: M + 5 %·|M| is worse, M - 5 %·|M| better."""
    measurements = [(loss, math.nan) for loss in losses_]
    assert lambdas(Rule("combined", "corrected", 5), measurements)[-1] == expected


def test_published_and_pseudocode_stay_as_they_are() -> None:
    """Even where M·(1 + α/100) lies on the wrong side."""
    measurements = [(-10.0, 50.0), (-10.0, 60.0), (-10.1, 70.0)]
    assert lambdas(Rule("threshold", "published", 5), measurements)[-1] == 0.01
    assert lambdas(Rule("threshold", "pseudocode", 5), measurements)[-1] == 0.01


# ---------------------------------------------------------------------- the loss alone


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("nothing", [None, math.nan])
def test_the_loss_alone(protocol: str, nothing: float | None) -> None:
    """Without an accuracy the loss decides, and a missing accuracy is no tie."""
    for losses_, expected in (((2, 3, 3, 3), 0.01), ((2, 1.9, 1.8, 1.7), 0.1)):
        controller = Controller(Rule("auto_l2", protocol))
        for number, loss in enumerate(losses_, 1):
            controller.measure(loss, nothing, 5 * number, 5 * number)
        assert controller.lambda_ == pytest.approx(expected)
    if protocol in ("published", "corrected"):
        controller = Controller(Rule("advance", protocol))
        for number, loss in enumerate((2, 1.9, 1.8), 1):
            controller.measure(loss, nothing, 5 * number, 5 * number)
        assert controller.lambda_ == 1


# ---------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "adam"}, "method must be one of fixed, auto_l2"),
        ({"protocol": "paper"}, "protocol must be one of published"),
        ({"alpha": -1}, "alpha must be"),
        ({"alpha": math.nan}, "alpha must be"),
        ({"decay_factor": 1}, "decay_factor must lie between 0 and 1"),
        ({"decay_factor": 0}, "decay_factor must lie between 0 and 1"),
        ({"initial_lambda": math.inf}, "initial_lambda must be"),
        ({"fixed_lambda": -1}, "fixed_lambda must be"),
        ({"cooldown": -1}, "cooldown must be"),
        ({"lambda_max": -1}, "lambda_max must be"),
        ({"raise_when_converged": -1}, "raise_when_converged must be"),
    ],
)
def test_bad_constants_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**{"method": "auto_l2", **options})


def test_another_rules_state_is_refused() -> None:
    state = Controller(Rule("combined", alpha=5)).state_dict()
    with pytest.raises(ValueError, match="saved under another rule"):
        Controller(Rule("combined", alpha=10)).load_state_dict(state)
    del state["stale"]
    with pytest.raises(ValueError, match="not a controller's state"):
        Controller(Rule("combined", alpha=5)).load_state_dict(state)


def test_a_difference_is_named_and_can_be_accepted() -> None:
    state = Controller(Rule("combined", alpha=5)).state_dict()
    other = Controller(Rule("combined", alpha=10, cooldown=1, lambda_max=0.05))
    with pytest.raises(ValueError, match=r"another rule: alpha=5, not 10, cooldown=0.1, not 1, la"):
        other.load_state_dict(state)
    other.load_state_dict(state, accept_changes=True)
    assert other.lambda_ == 0.05  # within the new bounds
    with pytest.raises(ValueError, match="method=combined, not auto_l2"):
        Controller(Rule("auto_l2")).load_state_dict(state)


def test_an_option_that_the_method_does_not_use_does_not_count() -> None:
    for one, other in (
        (Rule("auto_l2", alpha=5, fixed_lambda=1), Rule("auto_l2", alpha=10)),
        (Rule("fixed", "published", lambda_max=1), Rule("fixed", "corrected", cooldown=9)),
    ):
        Controller(other).load_state_dict(Controller(one).state_dict())


def test_numbers_of_any_kind_become_plain() -> None:
    np = pytest.importorskip("numpy")
    rule = Rule(
        "combined",
        alpha=np.float32(5),
        initial_lambda=np.float64(0.1),
        raise_when_converged=np.int64(3),
        lambda_max=np.float16(math.inf),
    )
    assert rule == Rule("combined", alpha=5, raise_when_converged=3)
    controller = Controller(rule)
    decision = controller.measure(np.float32(2), np.float64(50), np.int64(5), np.int32(5))
    assert type(decision.lambda_) is float
    text = json.dumps(controller.state_dict(), allow_nan=False)
    restored = Controller(rule)
    restored.load_state_dict(json.loads(text))
    assert restored.state_dict() == controller.state_dict()
    with pytest.raises(ValueError, match="must be a whole number"):
        Rule("auto_l2", raise_when_converged=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha must be a number, not '5'"):
        Rule("auto_l2", alpha="5")  # type: ignore[arg-type]


def test_plain_python() -> None:
    heavy = "torch", "numpy", "pandas", "hydra", "omegaconf", "torchvision"
    code = f"import autol2.rules.controller, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
