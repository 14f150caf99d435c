"""List the GPUs that are visible to CUDA, without importing PyTorch."""

from __future__ import annotations

import os
import re
import subprocess


def gpus() -> list[str]:
    """Return the NVIDIA GPUs that CUDA would show a process, each by its index or UUID.

    Like CUDA, this ignores the GPUs that CUDA_VISIBLE_DEVICES lists after one that does not exist.
    """
    there = _installed()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [index for index, _ in there]
    found: list[str] = []
    for name in (name.strip() for name in visible.split(",")):
        if name in found or not _is_there(name, there):
            break
        found.append(name)
    return found


def _is_there(name: str, there: list[tuple[str, str]]) -> bool:
    if re.fullmatch(r"\d+", name):
        return not there or name in [index for index, _ in there]
    if name.startswith("GPU-"):
        return not there or any(uuid.startswith(name) for _, uuid in there)
    return name.startswith("MIG-")


def _installed() -> list[tuple[str, str]]:
    """Return index and UUID of each GPU from nvidia-smi; empty if it fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^(\d+), *(GPU-\S+)$", done.stdout, re.MULTILINE)
