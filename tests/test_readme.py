"""README's Python examples run as they stand, each as a program of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PROJECT

README = PROJECT / "README.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
BLOCKS = EXAMPLE.findall(README.read_text(encoding="utf-8"))
LONGER = EXAMPLE.findall(
    (PROJECT / "autol2" / "integrations" / "README.md").read_text(encoding="utf-8")
)
NEEDED = (
    "from autol2 import AutoL2",
    "autol2.integrations.lightning import",
    "autol2.integrations.huggingface import",
    "from autol2 import Rule, replay",
    "from autol2 import convert",
)


def test_each_integration_has_an_example() -> None:
    for needed in NEEDED:
        assert any(needed in block for block in [*BLOCKS, *LONGER]), needed
    assert any("from autol2 import AutoL2" in block for block in BLOCKS)


@pytest.mark.parametrize(
    "block",
    [*BLOCKS, *(pytest.param(block, marks=pytest.mark.slow) for block in LONGER)],
    ids=lambda block: block.split("\n", 1)[0],
)
def test_example(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if "print(" in block:  # a module of one's own says nothing
        assert done.stdout.strip()
