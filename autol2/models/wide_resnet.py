"""The wide residual network (Zagoruyko & Komodakis, 2016, "Wide residual networks", BMVC).

It has three groups of blocks, at full, half and quarter resolution. A block consists of two 3×3
convolutions, each after batch-norm and ReLU, and a shortcut.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import dropout


class Block(nn.Module):
    """Two convolutions and a shortcut; with a `stride` of 2, the resolution is halved."""

    def __init__(
        self, channels: int, width: int, stride: int, *, batchnorm: bool, shortcut: int, drop: float
    ) -> None:
        super().__init__()
        self.norm1 = _norm(channels, batchnorm)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=not batchnorm)
        self.norm2 = _norm(width, batchnorm)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=not batchnorm)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or channels != width:
            self.shortcut = nn.Conv2d(channels, width, shortcut, stride, shortcut // 2, bias=False)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, H, W] to [N, width, H / stride, W / stride]."""
        active = self.norm1(x).relu()
        if self.shortcut is not None:
            x = self.shortcut(active if self.shortcut.kernel_size == (1, 1) else x)
        active = self.norm2(self.conv1(active)).relu()
        if self.drop:
            active = dropout(active, self.drop, self.training)
        return x + self.conv2(active)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """Maps normalised images to class scores; see `autol2.models.wrn.WRN` for the arguments."""

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        depth: int = 28,
        width: int = 10,
        batchnorm: bool = True,
        shortcut_kernel: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        wide = (16, 16 * width, 32 * width, 64 * width)

        def group(number: int) -> nn.Sequential:
            blocks: list[nn.Module] = []
            for place in range((depth - 4) // 6):
                blocks.append(
                    Block(
                        wide[number if place else number - 1],
                        wide[number],
                        2 if number > 1 and place == 0 else 1,
                        batchnorm=batchnorm,
                        shortcut=shortcut_kernel,
                        drop=dropout,
                    )
                )
            return nn.Sequential(*blocks)

        self.group1, self.group2, self.group3 = group(1), group(2), group(3)
        self.norm = _norm(wide[3], batchnorm)
        self.dense = nn.Linear(wide[3], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores, float32 [N, classes], of normalised `images` [N, C, H, W]."""
        x = self.group3(self.group2(self.group1(self.conv(images))))
        x = self.norm(x).relu()
        scores: Tensor = self.dense(x.mean((2, 3))).float()
        return scores


def _norm(channels: int, batchnorm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batchnorm else nn.Identity()
