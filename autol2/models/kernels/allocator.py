"""The C library's memory allocator, told to keep freed memory.

Each training step frees and allocates the same large tensors. glibc gives large blocks back to the
system at once and gets them anew, page by page: on a CPU the page faults take longer than the
arithmetic. `keep_freed_memory` makes it reuse them. Results do not change.

The time for it is after the first step. What is allocated then for good, such as oneDNN's kernels,
would otherwise lie between the large blocks, and what is free between them be too short for the
next one: in fp32 with batch-norm that costs another 0.2 GB.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameter numbers of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Set the allocator up; whether it could be done."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
