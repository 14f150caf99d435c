"""What is printed never decides how work ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autol2.cli.output import SteadyFile
from autol2.errors import UserError

from .conftest import PROJECT, SMALL, few, forkserver

SCRIPT = """
import sys
from autol2.cli.output import guarded, output_error, steady
steady()
for _ in range(3):
    print("λ", "x" * 9000)
    print("λ", file=sys.stderr)
error = output_error()
open(sys.argv[1], "w").write(f"done {type(error).__name__ if error else None}")
"""


@pytest.mark.parametrize(
    ("redirected", "error"),
    [
        ("> /dev/full 2> /dev/full", "OSError"),
        (">&- 2>&-", "OSError"),
        ("<&- >&- 2>&-", "OSError"),
        ("<&- 2>&-", "None"),
        ("| true", "BrokenPipeError"),
        ("> /dev/null", "None"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_work_goes_on(tmp_path, redirected: str, error: str, encoding: str) -> None:
    script, ending = tmp_path / "script.py", tmp_path / "ending"
    script.write_text(SCRIPT)
    command = f"{sys.executable} {script} {ending} {redirected}"
    subprocess.run(
        ["sh", "-c", command], check=False, env={"PYTHONIOENCODING": encoding, "PYTHONPATH": "."}
    )
    assert ending.read_text() == f"done {error}"


SHOWN = [
    "train --help",
    "train --cfg job",
    "train --info",
    "train -m seed=0,1 hydra.launcher.dry_run=true",
    "status study=one",
    "status study=one format=json",
    "replay trace=one.csv",
    "report study=one",
]
"""Commands whose only purpose is what they print."""
LOST = "error: standard output cannot be written: "


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and a recording."""
    folder = tmp_path_factory.mktemp("there")
    done = forkserver().run("autol2.train", [*SMALL, "study=one"], folder, os.environ, 60)
    assert done.returncode == 0, done.stderr
    (recording,) = folder.glob("outputs/one/*/measurements.csv")
    shutil.copy(recording, folder / "one.csv")
    return folder


@pytest.mark.parametrize("words", few(SHOWN, len(SHOWN) - 1))
def test_no_success_is_claimed_where_what_is_shown_was_lost(there: Path, words: str) -> None:
    """As in coreutils."""
    module, *arguments = f"autol2.{words}".split()
    with open("/dev/full", "wb") as full:
        done = forkserver().run(module, arguments, there, os.environ, 60, full.fileno())
    assert (done.returncode, done.stderr) == (1, f"{LOST}No space left on device\n")


@pytest.mark.parametrize("words", [SMALL, (*SMALL, "-m", "seed=0")], ids=["run", "sweep"])
def test_a_runs_success_is_its_own(there: Path, words: tuple[str, ...]) -> None:
    for _ in range(2):  # the second time it is done already
        with open("/dev/full", "wb") as full:
            done = forkserver().run("autol2.train", words, there, os.environ, 60, full.fileno())
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [(">&-", 1, f"{LOST}Bad file descriptor\n"), ("| true", 141, "")],
)
def test_closed_output_is_lost_too(there: Path, redirected: str, status: int, said: str) -> None:
    command = f"{sys.executable} -m autol2.status study=one {redirected}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=there, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, said)


def test_the_first_error_is_kept() -> None:
    with SteadyFile("/dev/full", "w") as file:
        assert file.write(b"abc") == 3
        assert file.write(memoryview(b"abcd")) == 4
        assert file.error is not None
        assert file.error.strerror == "No space left on device"


def test_names_in_any_language_where_the_locale_knows_none(there: Path) -> None:
    """As on some batch systems; the folder is called what was typed, by whatever locale."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "autol2.status", "outputs=größe"]
    (there / "größe").mkdir()
    done = subprocess.run(
        words, cwd=there, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("error: there is no study in größe yet"), done.stderr
    odd = [*map(os.fsencode, words[:3]), b"outputs=\xff"]
    done = subprocess.run(
        odd, cwd=there, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == "error: outputs=\\xff is not valid UTF-8: choose another name\n"


def test_guarded(capsys: pytest.CaptureFixture[str]) -> None:
    from autol2.cli.output import guarded

    def user() -> int:
        raise UserError("what to do")

    def program() -> int:
        raise KeyError("bug")

    assert guarded(lambda: 3) == 3
    assert guarded(user) == 2
    assert guarded(program) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: what to do"
    assert said[-1] == "KeyError: 'bug'"


def test_an_error_is_the_last_line_where_both_streams_are_one(tmp_path: Path) -> None:
    """As in the log of a sweep's run, whose last words the sweep tells."""
    words = "method=fixed", "alpha=5", "data=imagefolder", f"data.root={tmp_path}/none"
    done = subprocess.run(
        [sys.executable, "-m", "autol2.train", *words, f"outputs={tmp_path}"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    warning, error = done.stdout.splitlines()
    assert warning == "warning: method=fixed does not use alpha"
    assert error.startswith("error: ")
