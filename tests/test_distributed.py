"""Trainings on two processes (``torchrun``, gloo): λ and the weights are the same on both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PROJECT

COMMON = """
import json, sys, torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(0)
digits = load_digits()
IMAGES = torch.tensor(digits.images, dtype=torch.float32).flatten(1)[:512] / 16
LABELS = torch.tensor(digits.target)[:512]
SETTINGS = {"alpha": 5, "cooldown": 0.001, "measure_every": 2}
model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))


def report(l2, network, rank):
    assert l2.last_step >= 30, l2.last_step
    weights = torch.cat([weight.detach().flatten() for weight in network.parameters()])
    with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
        state = {"lambda": l2.get_last_lambda(), "state": l2.state_dict()}
        json.dump({**state, "weights": weights.tolist()}, file, allow_nan=False)
"""

PLAIN = """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from autol2 import AutoL2

dist.init_process_group("gloo")
rank = dist.get_rank()
network = DistributedDataParallel(model)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
l2 = AutoL2(optimizer, "combined", **SETTINGS)
for step in range(40):
    first = (2 * step + rank) * 16 % 512
    size = 16 if rank else 4  # the processes' batches differ in size
    images, labels = IMAGES[first : first + size], LABELS[first : first + size]
    scores = network(images)
    loss = cross_entropy(scores, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    l2.step(loss, (scores.argmax(1) != labels).float().mean(), size)
report(l2, network, rank)
dist.destroy_process_group()
"""

LIGHTNING = """
import lightning.pytorch as L
from autol2.integrations.lightning import AutoL2Callback


class Digits(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        if self.global_rank == 0 and batch_idx == 3:
            return {"loss": 0 * sum(weight.sum() for weight in self.parameters()), "count": 0}
        scores = self.model(batch[0])
        error = (scores.argmax(1) != batch[1]).float().mean()
        return {"loss": cross_entropy(scores, batch[1]), "error": error, "count": len(batch[1])}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


callback = AutoL2Callback("combined", **SETTINGS)
trainer = L.Trainer(
    max_epochs=3, accelerator="cpu", devices=2, strategy="ddp", callbacks=[callback],
    logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, default_root_dir=sys.argv[1],
)
module = Digits()
trainer.fit(module, DataLoader(TensorDataset(IMAGES, LABELS), batch_size=16, shuffle=True))
report(callback.auto_l2, module, trainer.global_rank)
"""

HUGGING_FACE = """
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments
from autol2.integrations.huggingface import AutoL2Callback

callback = AutoL2Callback("combined", **SETTINGS)
network = ResNetForImageClassification(
    ResNetConfig(
        num_channels=1, num_labels=10, embedding_size=8, hidden_sizes=[8], depths=[1],
        layer_type="basic",
    )
)
trainer = Trainer(
    model=network,
    args=TrainingArguments(
        sys.argv[1], max_steps=30, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        learning_rate=1e-2, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
    ),
    train_dataset=[
        {"pixel_values": image.reshape(1, 8, 8), "labels": int(label)}
        for image, label in zip(IMAGES, LABELS)
    ],
    callbacks=[callback],
)
trainer.train()
report(callback.auto_l2, network, trainer.args.process_index)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [PLAIN, LIGHTNING, HUGGING_FACE], ids=["plain", "lightning", "hugging_face"]
)
def test_two_processes_agree(program: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(COMMON + program)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1",
             "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert one["state"] == other["state"]
    assert one["lambda"] == other["lambda"] != 0.1
    assert one["weights"] == other["weights"]
