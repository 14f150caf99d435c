"""The loops that ours is compared with: a bare loop of the same network, and the authors' loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d
from torch.utils.data import DataLoader
from torchvision import transforms

from ..config import Config
from ..data.dataset import Dataset
from ..rules.method import Adaptive
from ..training.trainer import epoch_order


def held_lambda(config: Config) -> float:
    """Return the λ of a run whose λ must stay constant."""
    assert isinstance(config.method, Adaptive)
    return config.method.initial_lambda


class BareLoop:
    """A minimal training loop: forward pass, backward pass, and optimizer step for each batch.

    Args:
        config: the run; λ stays at `config.method.initial_lambda`.
        model: the network, on the device of `data`.
        data: the images.
    """

    def __init__(self, config: Config, model: nn.Module, data: Dataset) -> None:
        self.config, self.model, self.data = config, model.train(), data
        group = {"params": list(model.parameters()), "weight_decay": 2 * held_lambda(config)}
        self.optimizer = torch.optim.SGD([group], config.lr)
        self.batches = batches(config, data)

    def steps(self, count: int) -> None:
        """Take `count` optimizer steps."""
        device, bf16 = self.data.train_images.device.type, self.config.precision.name == "bf16"
        for _ in range(count):
            index = next(self.batches)
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                scores = self.model(self.data.normalize(self.data.train_images[index]))
            loss = cross_entropy(scores.float(), self.data.train_labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()


class PlainCNN(nn.Module):
    """The paper's network, written as in section 4; its weights have the same names as ours.

    Args:
        like: the network whose shape and weights to copy.
    """

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        weights = like.state_dict()
        width, channels = weights["conv1.weight"].shape[:2]
        hidden, inputs = weights["dense1.weight"].shape
        batchnorm = "norm1.weight" in weights
        self.conv1 = nn.Conv2d(channels, width, 3)
        self.norm1 = nn.BatchNorm2d(width) if batchnorm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width) if batchnorm else nn.Identity()
        self.dense1 = nn.Linear(inputs, hidden)
        self.dense2 = nn.Linear(hidden, len(weights["dense2.weight"]))
        self.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        """Compute class scores, float32 [N, classes], of normalized float32 images [N, C, H, W]."""
        x = max_pool2d(torch.relu(self.norm1(self.conv1(images))), 2)
        x = max_pool2d(torch.relu(self.norm2(self.conv2(x))), 2)
        scores: Tensor = self.dense2(torch.relu(self.dense1(x.flatten(1))))
        return scores


class PlainLoop:
    """The authors' training loop.

    It uses the NCHW memory format, fp32, eager mode, a DataLoader with transforms, and a penalty
    that is added to the loss.

    Args:
        config: as for `BareLoop`; the precision is ignored.
        model: the network with the initial weights, on the CPU.
        data: the images, on the CPU.
        device: the device to train on.
    """

    def __init__(
        self, config: Config, model: nn.Module, data: Dataset, device: torch.device
    ) -> None:
        self.config, self.device = config, device
        self.model = PlainCNN(model).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr)
        normalize = transforms.Normalize([config.data.mean] * 3, [config.data.std] * 3)
        transform = transforms.Compose([transforms.ToTensor(), normalize])
        train = _Pictures(data.train_images, data.train_labels, transform)
        test = _Pictures(data.test_images, data.test_labels, transform)
        order = (index.tolist() for index in batches(config, data))
        self.train = iter(DataLoader(train, batch_sampler=order))
        self.test = DataLoader(test, batch_size=config.batch_size)

    def steps(self, count: int) -> None:
        """Take `count` optimizer steps."""
        self.model.train()
        for _ in range(count):
            images, labels = next(self.train)
            scores = self.model(images.to(self.device))
            loss = cross_entropy(scores, labels.to(self.device))
            squares = sum(parameter.square().sum() for parameter in self.model.parameters())
            self.optimizer.zero_grad()
            whole = loss + held_lambda(self.config) * squares
            whole.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Compute the mean loss and the accuracy in percent on the test images."""
        self.model.eval()
        loss, hits, count = 0.0, 0, 0
        for images, labels in self.test:
            scores = self.model(images.to(self.device))
            labels = labels.to(self.device)
            loss += cross_entropy(scores, labels, reduction="sum").item()
            hits += int((scores.argmax(1) == labels).sum())
            count += len(labels)
        return loss / count, 100.0 * hits / count

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the parameters and buffers of the network by name, as arrays."""
        return {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A data set that returns images one at a time through PIL, as torchvision's data sets do."""

    def __init__(self, images: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def batches(config: Config, data: Dataset) -> Iterator[Tensor]:
    """Yield the indices of the images of each step, int64 [batch], endlessly.

    The order is that of a run of `config`.
    """
    size, epoch = len(data.train_images), 0
    while True:
        order = epoch_order(size, config.seed, epoch).to(data.train_images.device)
        yield from order.split(config.batch_size)  # type: ignore[no-untyped-call]
        epoch += 1
