"""Standard output and standard error that never make a command fail while it works.

If the terminal goes away, the disk is full, or standard output is closed, the work continues
without output. If the encoding of the output has no λ, ``\\u03bb`` is printed instead.
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
    """An output file that discards whatever cannot be written.

    Attributes:
        error: the first error on writing; None if there was none. It is also set from the start if
            the file had been closed.
    """

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write as much as possible, and return the number of bytes written or discarded."""
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
    """Replace standard output and standard error by `SteadyFile` streams.

    Streams that somebody else has installed, such as a test framework, are left alone.
    """
    closed: dict[int, OSError] = {}
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:  # It is closed: the next file opened would receive the output.
            closed[number] = error
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            try:
                if stream.fileno() != number or isinstance(_raw(stream), SteadyFile):
                    continue
            except (OSError, ValueError, AttributeError):
                continue  # Somebody else has installed this stream, such as a test framework.
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        encoding = getattr(stream, "encoding", None) or "utf-8"
        setattr(sys, name, _steady(number, encoding, closed.get(number)))


def output_error() -> OSError | None:
    """Return the error with which writing to standard output has failed; None if it has not."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    raw = _raw(sys.stdout)
    return raw.error if isinstance(raw, SteadyFile) else None


def report(message: str) -> None:
    """Print an error message to standard error, after everything printed so far."""
    output_error()
    print(f"error: {message}", file=sys.stderr)


def guarded(work: Callable[[], int]) -> int:
    """Call `work` and return its exit status.

    A `UserError` is reported in one line and any other exception with its traceback. Keyboard
    interrupts and `SystemExit` are not caught.
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
        output_error()  # Flush before the end of a forked or multiprocessing process.


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
