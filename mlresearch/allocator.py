"""How a process gets memory from the system: in large pages, and kept once it has it.

XLA takes its arrays anew at every call and gives them back after it. glibc maps those of more than 32 MiB from the
system each time, and the system gives them page by page of 4 KiB, each with a fault, at their first use. From one heap
of large pages that is never given back, there is neither; a process then holds the most memory that it ever had in use
until its end. What that is worth, and where it is worth nothing, stands in experiments/bench/README.md.
"""

import os
import sys

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # the heap asks for transparent large pages
    "glibc.malloc.mmap_max": 0,  # no array is mapped by itself
    "glibc.malloc.trim_threshold": 1 << 44,  # nothing is given back
    "glibc.malloc.arena_max": 1,  # other heaps than the first end at 64 MiB
}
"""glibc's names (manual, "Memory Allocation Tunables"); the first is known from 2.35 on, and passed over before."""


def restart_with_large_pages() -> None:
    """Start the program of this process anew with `TUNABLES`, which glibc reads at the start alone.

    Processes that it starts have them too. Nothing happens on another system than Linux, and where the variable
    `GLIBC_TUNABLES` is set: empty, it leaves glibc as it is.
    """
    if sys.platform != "linux" or VARIABLE in os.environ or not sys.executable:
        return
    os.environ[VARIABLE] = settings()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def settings() -> str:
    """Return `TUNABLES` as the variable has them."""
    return ":".join(f"{name}={value}" for name, value in TUNABLES.items())
