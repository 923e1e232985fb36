"""A few threads that share the work of one step.

Numba's own threads are not used: its OpenMP layer ends a process that forks, its workqueue one that has two threads,
and both cost a second compilation. Kernels let go of the interpreter lock, so plain threads do.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

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


def share(task: Callable[[int, tuple[int, int]], int], count: int, chunk: int, num_threads: int) -> int:
    """The sum of task(slot, (first, stop)) over chunks of range(count), on up to `num_threads` threads.

    This one is among them. No two tasks with one slot, below `num_threads`, run at the same time.
    """
    if num_threads == 1 or count <= chunk:
        return task(0, (0, count))
    chunks = deque((first, min(first + chunk, count)) for first in range(0, count, chunk))

    def work(slot: int) -> int:
        total = 0
        while True:
            try:
                part = chunks.popleft()
            except IndexError:
                return total
            total += task(slot, part)

    global _executor
    if _executor is None:
        _executor = ThreadPoolExecutor(max_workers=num_cores(), thread_name_prefix="entropy-env")
    helpers = [_executor.submit(work, slot) for slot in range(1, min(num_threads, len(chunks)))]
    try:
        total = work(0)
    finally:  # also where Ctrl-C ends it: nobody may work on after the caller has gone on
        chunks.clear()
        helpers = [helper for helper in helpers if not helper.cancel()]
        wait(helpers)
    return total + sum(helper.result() for helper in helpers)
