"""The machine that a run trains on: its device, its precision, and its memory."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from ..config import Config
from ..errors import UserError
from .visible_gpus import gpus

GIVEN = (
    *("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"),
    *("SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "CUDA_VISIBLE_DEVICES"),
)
"""Environment variables that are set if a job was given GPUs."""
NO_DRIVER = (9, 12, 15, 18)
"""Exit statuses of nvidia-smi if the driver is not loaded, is missing, has lost its GPU, or has a
different version than its library."""
WHEELS = ((580, "cu130"), (525, "cu126"), (450, "cu118"))
"""The oldest driver for each CUDA version that PyTorch is built for, according to CUDA's minor
version compatibility."""


def device(config: Config) -> torch.device:
    """Return the device that `config` asks for.

    Raises:
        UserError: the device does not exist or does not support the precision, or ``device=auto``
            would use the CPU although there is a GPU.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device.startswith("cuda"):
        index = int(config.device.partition(":")[2] or 0)
        if index >= cuda:
            there = f"{cuda} CUDA device(s)" if cuda else "no CUDA device"
            unseen = "" if cuda else f" ({why})" if (why := unseen_gpu()) else ""
            raise UserError(
                f"device={config.device}: this machine has {there}{unseen}; use device=cpu"
            )
    name = config.device
    if name == "auto":
        name = "cuda" if cuda else "cpu"
        if not cuda and (why := unseen_gpu()):
            raise UserError(f"{why}; or train on the CPU with device=cpu")
    if config.precision.name == "tf32" and name == "cpu":
        raise UserError("precision=tf32 needs an NVIDIA GPU: use precision=fp32 or precision=bf16")
    if name == "cuda":
        name = "cuda:0"
    if name != "cpu" and (why := _without_kernels(int(name.partition(":")[2]))):
        raise UserError(why)
    return torch.device(name)


def _without_kernels(index: int) -> str:
    """Return why PyTorch cannot run anything on a GPU that it sees; empty if it can."""
    try:
        major, minor = torch.cuda.get_device_capability(index)
        built = torch.cuda.get_arch_list()
    except (RuntimeError, AssertionError):  # whatever the reason, the first tensor will report it
        return ""
    kinds = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", architecture) for architecture in built]
    if not kinds:
        return ""
    for kind in kinds:
        if kind is None:  # not NVIDIA's
            return ""
        if kind[1] == "sm" and int(kind[2]) == major and int(kind[3]) <= minor:
            return ""
        if kind[1] == "compute" and (int(kind[2]), int(kind[3])) <= (major, minor):
            return ""
    return (
        f"{torch.cuda.get_device_name(index)} is an sm_{major}{minor}, which this PyTorch "
        f"({torch.__version__}, for {' '.join(built)}) cannot use: install PyTorch for an older or "
        f"newer CUDA, as https://pytorch.org says, or train on the CPU with device=cpu"
    )


def unseen_gpu() -> str:
    """Return why PyTorch does not see an existing or allocated GPU; empty if there is none."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        return ""  # GPUs are hidden on purpose
    found, driver = nvidia_smi()
    given = [name for name in GIVEN if os.environ.get(name)]
    if os.environ.get("SLURM_GPUS_ON_NODE") == "0":
        given = []
    if not found and not given:
        return ""
    there = found or f"this job was given a GPU ({given[0]}={os.environ[given[0]]})"
    if found and not driver:
        return f"{there}: restart the machine or reinstall the driver"
    if not found and os.path.exists("/dev/kfd"):  # AMD's driver
        return f"{there}, but this PyTorch ({torch.__version__}) cannot use it: {_install('rocm')}"
    if torch.version.cuda is None:
        return (
            f"{there}, but this PyTorch ({torch.__version__}) is built without CUDA: "
            f"{_install(driver)}"
        )
    if hidden is not None and found and not gpus():
        return f"{there}, but CUDA_VISIBLE_DEVICES={hidden!r} hides it from PyTorch"
    return (
        f"{there}, but PyTorch {torch.__version__}, which needs a driver for CUDA "
        f"{torch.version.cuda}, cannot use it: update the driver, or {_install(driver)}"
    )


def _install(driver: str) -> str:
    """Return how to install PyTorch for `driver`, a version of NVIDIA's or ``rocm``."""
    number = re.match(r"\d+", driver)
    known = [wheel for oldest, wheel in WHEELS if number and int(number[0]) >= oldest]
    if not known:
        platform = "ROCm" if driver == "rocm" else "your driver's CUDA"
        return f"install PyTorch for {platform}, as https://pytorch.org says"
    return f"install PyTorch's {known[0]} wheel, which suits this driver (see https://pytorch.org)"


def nvidia_smi() -> tuple[str, str]:
    """Return a description of the first GPU and its driver's version, from nvidia-smi.

    Both are empty if there is no GPU; only the version is empty if the driver does not work.
    """
    if shutil.which("nvidia-smi") is None:
        return "", ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "", ""
    line = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
    if done.returncode in NO_DRIVER and _is_on_the_bus():
        return f"there is an NVIDIA GPU whose driver does not work ({line.rstrip('.')})", ""
    name, comma, driver = line.rpartition(", ")
    if done.returncode or not comma:
        return "", ""
    return f"there is a GPU, {name} with driver {driver}", driver


def _is_on_the_bus() -> bool:
    """Return whether the machine has an NVIDIA GPU, regardless of its driver."""
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        with contextlib.suppress(OSError):
            kind = vendor.with_name("class").read_text().strip()
            if vendor.read_text().strip() == "0x10de" and kind.startswith("0x03"):
                return True
    return False


def prepare(config: Config) -> torch.device:
    """Set PyTorch up for `config`, before the first tensor is created; return the device."""
    chosen = device(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    tf32 = config.precision.name == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if chosen.type != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
        # Streams and graphs belong to the current device, whatever tensors they use.
        torch.cuda.set_device(chosen)
    return chosen


NO_MEMORY = (
    *("not enough memory", "can't allocate memory"),  # PyTorch, about the machine's memory
    *("out of memory", "ALLOC_FAILED"),  # CUDA and its libraries, about the device's memory
)
"""Parts of the messages of errors for lack of memory."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that the device or the machine is out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def environment(device: torch.device) -> dict[str, str | int]:
    """Return what a run's exact results depend on, apart from its configuration."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for line in status:  # getrusage may report the parent process's
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
