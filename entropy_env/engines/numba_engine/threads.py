"""Share the work of one step among a few Python threads, which run in parallel as kernels release the interpreter lock.

Numba's own threads have drawbacks. Its OpenMP layer ends a process that forks, its workqueue ends one with two threads,
and both need a second compilation.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from entropy_env.checks import BATCH

# the first one that is set counts
ENVIRONMENT_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")

_executor: ThreadPoolExecutor | None = None


def _forget() -> None:
    """Forget the threads in a forked process, which does not have those of its parent."""
    global _executor
    _executor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return the value of NUMBA_NUM_THREADS, else of OMP_NUM_THREADS, else `num_cores`.

    Warns of a value that is not a number of threads, and ignores it.
    """
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
    """Sum task(slot, (first, stop)) over parts of range(count), on up to `num_threads` threads, this one included.

    The parts shrink to `chunk`, so that all threads finish together (guided self-scheduling, Polychronopoulos & Kuck
    1987). Slots are below `num_threads`, and no two tasks with the same slot run at the same time.
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
    except BaseException:  # Ctrl-C: no thread may go on working after this call has ended
        parts.clear()
        wait([helper for helper in helpers if not helper.cancel()])
        raise
    # a helper that has not begun by now has nothing left to do
    return total + sum(helper.result() for helper in helpers if not helper.cancel())
