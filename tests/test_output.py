"""What is printed never decides how work ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autol2.cli.output import SteadyFile
from autol2.errors import UserError

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
        (">&- 2>&-", "None"),
        ("<&- >&- 2>&-", "None"),
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


def test_the_first_error_is_kept() -> None:
    with SteadyFile("/dev/full", "w") as file:
        assert file.write(b"abc") == 3
        assert file.write(memoryview(b"abcd")) == 4
        assert file.error is not None
        assert file.error.strerror == "No space left on device"


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
