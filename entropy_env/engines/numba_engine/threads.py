"""A few threads that share the work of one step.

Numba's own threads are not used: its OpenMP layer ends a process that forks, its workqueue one that has two threads,
and both cost a second compilation. Kernels let go of the interpreter lock, so plain threads do.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from entropy_env.checks import BATCH

# the first that is set counts, the more specific one first
ENVIRONMENT_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")

_executor: ThreadPoolExecutor | None = None


def _forget() -> None:
    """In a forked process, where the threads of its parent are missing."""
    global _executor
    _executor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def num_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """What NUMBA_NUM_THREADS says, else OMP_NUM_THREADS, else `num_cores`. A warning for a value that is no number of
    threads, which does not count."""
    allowed = BATCH["num_threads"]
    for name in ENVIRONMENT_VARIABLES:
        value = os.environ.get(name, "").strip()
        if not value:
            continue
        outermost = value.split(",")[0].strip()  # OpenMP lists one for each level of nesting
        if outermost.isdecimal() and allowed.least <= int(outermost) <= allowed.most:
            return int(outermost)
        warnings.warn(f"{name}={value!r} is ignored: it must be {allowed}", stacklevel=3)
    return num_cores()


def share(task: Callable[[int, tuple[int, int]], int], count: int, chunk: int, num_threads: int) -> int:
    """The sum of task(slot, (first, stop)) over parts of range(count), on up to `num_threads` threads.

    This one is among them. The parts shrink to `chunk`, so that all finish together (guided self-scheduling,
    Polychronopoulos & Kuck 1987). No two tasks with one slot, below `num_threads`, run at the same time.
    """
    if num_threads == 1 or count <= chunk:
        return task(0, (0, count))
    parts: deque[tuple[int, int]] = deque()
    first = 0
    while first < count:
        stop = min(first + max((count - first) // (2 * num_threads), chunk), count)
        parts.append((first, stop))
        first = stop

    def work(slot: int) -> int:
        total = 0
        while True:
            try:
                part = parts.popleft()
            except IndexError:
                return total
            total += task(slot, part)

    global _executor
    if _executor is None:
        _executor = ThreadPoolExecutor(max_workers=num_cores(), thread_name_prefix="entropy-env")
    helpers = [_executor.submit(work, slot) for slot in range(1, min(num_threads, len(parts)))]
    try:
        total = work(0)
    except BaseException:  # Ctrl-C: nobody may work on after the caller has gone on
        parts.clear()
        wait([helper for helper in helpers if not helper.cancel()])
        raise
    # one that has not begun by now has nothing left to do
    return total + sum(helper.result() for helper in helpers if not helper.cancel())
