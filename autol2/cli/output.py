"""What a command prints never decides how its work ends.

A terminal that goes away, a full disk, a closed standard output or one that knows no λ: the work
goes on without a word, or with ``\\u03bb``.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ..errors import UserError


class SteadyFile(io.FileIO):
    """A file for output that swallows what cannot be written.

    Attributes:
        error: the first that there was, or that it had been closed.
    """

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write as far as possible; the number of bytes taken."""
        size = memoryview(content).nbytes
        if self.error is None:
            try:
                return super().write(content) or 0
            except BlockingIOError:
                return 0
            except OSError as error:
                self.error = error
        return size


def steady() -> None:
    """Let standard output and standard error, where they are the process's own, be steady."""
    closed: dict[int, OSError] = {}
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:  # closed: else the next file opened would get what is printed
            closed[number] = error
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            try:
                if stream.fileno() != number or isinstance(_raw(stream), SteadyFile):
                    continue
            except (OSError, ValueError, AttributeError):
                continue  # somebody's own, as a test's
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        encoding = getattr(stream, "encoding", None) or "utf-8"
        setattr(sys, name, _steady(number, encoding, closed.get(number)))


def output_error() -> OSError | None:
    """Why standard output could not take all that was printed; None where it did."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    raw = _raw(sys.stdout)
    return raw.error if isinstance(raw, SteadyFile) else None


def report(message: str) -> None:
    """Tell the user of an error, in a line of standard error, behind all that was printed."""
    output_error()
    print(f"error: {message}", file=sys.stderr)


def guarded(work: Callable[[], int]) -> int:
    """Do `work` and return its exit status; an error of the user's is a line, others a traceback.

    Keyboard interrupts and exits pass.
    """
    try:
        return work()
    except UserError as error:
        report(str(error))
        return error.status
    except Exception:
        output_error()
        traceback.print_exc()
        return 1
    finally:
        output_error()  # flushed before a process of multiprocessing's or a fork ends


def _raw(stream: Any) -> Any:
    return getattr(getattr(stream, "buffer", None), "raw", None)


def _steady(number: int, encoding: str, error: OSError | None) -> io.TextIOWrapper:
    raw = SteadyFile(number, "w", closefd=False)
    raw.error = error
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
    )
