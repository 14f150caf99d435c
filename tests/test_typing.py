"""A user's file, checked against the installed package by ``mypy --strict`` and by pyright."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autol2

from .conftest import PROJECT
from .test_wheel import bin_, wheel  # noqa: F401 (fixtures)

USER = """from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from autol2 import (
    AutoL2,
    Controller,
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
decision = l2.step(np.float32(1), np.float64(0.5), np.int64(3))
l2.add(1.0, None, torch.tensor(99))
decision = l2.step()
decision = Controller(Rule("combined", protocol="corrected", alpha=5)).measure(1.0, 90.0, 1, 1)
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
chain = torch.optim.lr_scheduler.SequentialLR(optimizer, [schedulers[0], schedulers[2]], [100])
mean = StepMean()
loss, error, count = mean.take()
strength: float = convert(5e-4, "sum", "weight_decay")
for step in replay(Rule("combined", alpha=5), "trace.csv"):
    print(step.decision.lambda_)


class Halved(HuggingFaceCallback):
    def measure(
        self, inputs: Mapping[str, Any], outputs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | int]:
        loss, error, count = super().measure(inputs, outputs)
        return loss / 2, error, count


class Net(lightning.LightningModule):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.l2.add(batch.sum())
        return batch.sum()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.l2 = AutoL2(optimizer, initial_lambda=0.01)
        return [optimizer], [{"scheduler": self.l2, "interval": "step"}]


callback = AutoL2Callback("combined", alpha=5, accept_changes=True)
follow = WeightDecayCallback(lambda optimizer: FollowLR(optimizer, 5e-4))
lightning.Trainer(callbacks=[callback, follow])
assert callback.auto_l2 is not None
print(callback.auto_l2.get_last_lambda())
halved = Halved("auto_l2", all_parameters=True)
cosine = HuggingFaceSchedule(lambda optimizer: CosineWeightDecay(optimizer, 9, initial_lambda=0.1))
Trainer(model, TrainingArguments("digits"), callbacks=[halved, cosine])
halved.add(1.0, torch.tensor(0.5), 3)
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
    "checker",
    [("mypy", "--strict", "--python-executable"), ("pyright", "--pythonpath")],
    ids=lambda words: words[0],
)
def test_a_users_files(
    checker: tuple[str, ...],
    bin_: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """No error in a file that is right, and one in each line that is wrong."""
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "typos.py").write_text(TYPOS)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    done = subprocess.run(
        [sys.executable, "-m", *checker, bin_ / "python", "user.py", "typos.py"],
        cwd=tmp_path,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},  # of newer versions
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    found = re.findall(r"(\w+\.py):(\d+)(?::\d+ -|:) error", done.stdout)
    assert {(file, int(line)) for file, line in found} == {
        ("typos.py", line) for line in (4, 6, 7, 8, 9)
    }, done.stdout + done.stderr
    assert done.returncode == 1


def test_the_package_says_that_it_is_typed() -> None:
    assert (PROJECT / "autol2" / "py.typed").exists()
    assert "py.typed" in (PROJECT / "pyproject.toml").read_text()
    assert set(autol2.__all__) <= set(dir(autol2))
    for name in autol2.__all__:
        assert getattr(autol2, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'AutoL3'"):
        autol2.AutoL3  # type: ignore[attr-defined]  # noqa: B018
