"""A user's file is checked by ``mypy --strict`` as they would expect of a typed package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autol2

from .conftest import PROJECT

USER = """import torch
from torch import nn
from torch.utils.data import DataLoader

from autol2 import (
    AutoL2,
    CosineWeightDecay,
    Decision,
    FollowLR,
    LambdaScheduler,
    LinearWeightDecay,
    Rule,
    StepMean,
    convert,
    replay,
)
from autol2.integrations.huggingface import AutoL2Callback as HuggingFaceCallback
from autol2.integrations.huggingface import WeightDecayCallback as HuggingFaceSchedule
from autol2.integrations.lightning import AutoL2Callback, WeightDecayCallback

model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
l2 = AutoL2(optimizer, "combined", alpha=5, protocol="corrected", measure_every=5)
decision: Decision = l2.step(torch.tensor(1.0), 0.5)
l2.add(1.0, None, 99)
decision = l2.step()
lambda_: float = l2.get_last_lambda()
lambdas: list[float | None] = l2.get_last_lambdas()
l2.load_state_dict(l2.state_dict(), accept_changes=True)
schedulers: list[LambdaScheduler] = [
    CosineWeightDecay(optimizer, 100, initial_lambda=0.1),
    LinearWeightDecay(optimizer, 100, initial_lambda=0.1, final_lambda=0.0),
    FollowLR(optimizer, 5e-4),
    l2,
]
scheduler: torch.optim.lr_scheduler.LRScheduler = l2
mean = StepMean()
loss, error, count = mean.take()
strength: float = convert(5e-4, "sum", "weight_decay")
for step in replay(Rule("combined", alpha=5), "trace.csv"):
    print(step.decision.lambda_)
callbacks = [
    AutoL2Callback("combined", alpha=5),
    WeightDecayCallback(lambda optimizer: FollowLR(optimizer, 5e-4)),
]
others = [
    HuggingFaceCallback("auto_l2", all_parameters=True),
    HuggingFaceSchedule(lambda optimizer: CosineWeightDecay(optimizer, 9, initial_lambda=0.1)),
]
"""

TYPOS = """
import torch

from autol2 import AutoL2, AutoL3

l2 = AutoL2(torch.optim.SGD([], lr=0.1), "autol2")
l2.step(loss="1")
AutoL2(torch.optim.SGD([], lr=0.1), every=5)
l2.get_last_lamda()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "wrong"), [(USER, []), (TYPOS, [4, 6, 7, 8, 9])], ids=["user", "typos"]
)
def test_mypy(text: str, wrong: list[int], tmp_path: Path) -> None:
    """No error in a file that is right, and one in each line that is wrong."""
    file = tmp_path / "user.py"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "user.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    found = sorted({int(line) for line in re.findall(r"user.py:(\d+): error", done.stdout)})
    assert found == wrong, done.stdout + done.stderr
    assert done.returncode == bool(wrong)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PROJECT / "autol2" / "py.typed").exists()
    assert "py.typed" in (PROJECT / "pyproject.toml").read_text()
    assert set(autol2.__all__) <= set(dir(autol2))
    for name in autol2.__all__:
        assert getattr(autol2, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'AutoL3'"):
        autol2.AutoL3  # type: ignore[attr-defined]  # noqa: B018
