"""The machine that a run trains on: its device, its precision, and what they are called."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from pathlib import Path

import torch

from ..config import Config
from ..errors import UserError


def device(config: Config) -> torch.device:
    """The device that `config` asks for.

    Raises:
        UserError: it is not there, or cannot do the precision asked for.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device.startswith("cuda"):
        index = int(config.device.partition(":")[2] or 0)
        if index >= cuda:
            there = f"{cuda} CUDA device(s)" if cuda else "no CUDA device"
            raise UserError(f"device={config.device}: this machine has {there}; use device=cpu")
    name = config.device
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    if config.precision.name == "tf32" and name == "cpu":
        raise UserError("precision=tf32 needs an NVIDIA GPU: use precision=fp32 or precision=bf16")
    return torch.device(name)


def prepare(config: Config) -> torch.device:
    """Set PyTorch up for `config`, before the first tensor is made; the device to train on."""
    chosen = device(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    tf32 = config.precision.name == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if chosen.type != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
    return chosen


def environment(device: torch.device) -> dict[str, str | int]:
    """What the bits of a run depend on beside its configuration."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def peak_memory() -> int:
    """The most memory of this process that was resident at any time, in bytes."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for line in status:  # what getrusage says there may be the parent process's
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage * (1 if sys.platform == "darwin" else 1024)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
