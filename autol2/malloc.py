"""The C library's memory allocator, told to keep freed memory.

Each training step frees and allocates the same large tensors. glibc gives large blocks back to the
system at once and gets them anew, page by page: on a CPU the page faults take longer than the
arithmetic. `keep_freed_memory` makes it reuse them. Results do not change.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameter numbers of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Set the allocator up, before the first large allocation; whether it could be done."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> bool:
    """Set the allocator back; whether it could be done.

    Its thresholds, which by default rise with what is freed, become what they rise to: 32 MiB and
    64 MiB on 64-bit machines. What is free now is returned at once.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    largest = 32 * 2**20
    done = libc.mallopt(M_MMAP_MAX, 65536) and libc.mallopt(M_MMAP_THRESHOLD, largest)
    done = done and libc.mallopt(M_TRIM_THRESHOLD, 2 * largest)
    libc.malloc_trim(0)
    return bool(done)
