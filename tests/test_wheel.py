"""The wheel, installed in an environment of its own, runs every command from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from .conftest import PROJECT, SMALL

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "outputs", "__pycache__", "*.egg-info", ".*")
    shutil.copytree(PROJECT, source, ignore=ignored)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    run(sys.executable, "-c", build, cwd=source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bin_(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment's commands. What autol2 needs is that of the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import autol2; print(autol2.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(packages)
    return folder / "bin"


def test_every_command(bin_: Path, tmp_path: Path) -> None:
    commands = sorted(path.name for path in bin_.glob("autol2-*"))
    assert {"autol2-train", "autol2-status", "autol2-report", "autol2-replay"} <= set(commands)
    for name in commands:
        assert "== Options" in run(bin_ / name, "--help", cwd=tmp_path), name


def test_a_sweep_its_status_and_its_report(bin_: Path, tmp_path: Path) -> None:
    run(bin_ / "autol2-train", "-m", *SMALL, "method=fixed,advance", "study=one", cwd=tmp_path)
    assert "2 done" in run(bin_ / "autol2-status", "study=one", cwd=tmp_path)
    run(bin_ / "autol2-report", "study=one", cwd=tmp_path)
    assert (tmp_path / "outputs/one/report/index.html").is_file()
    (trace,) = tmp_path.glob("outputs/one/advance-*/measurements.csv")
    assert "agrees" in run(bin_ / "autol2-replay", f"trace={trace}", "method=advance", cwd=tmp_path)


def test_it_carries_what_lies_in_the_tree(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "autol2").rglob("*.py")
        if "hydra_plugins" not in path.parts
    }
    assert modules <= inside
    files = {f"autol2/{path.relative_to(PROJECT)}" for path in (PROJECT / "conf").rglob("*.yaml")}
    assert files <= inside
    assert "hydra_plugins/autol2_launchers.py" in inside
    assert "hydra_plugins/__init__.py" not in inside
