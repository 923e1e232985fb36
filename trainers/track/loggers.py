"""Where the figures of a run go: a JSON lines file, TensorBoard events and a progress display."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from trainers.run.files import Patience, naming, to_json, write_atomic
from trainers.run.terminal import say

ROOM = 1 << 20  # bytes of figures that wait in memory for a disk


class MetricsLogger:
    """Writes `metrics.jsonl`, one JSON object per line, and TensorBoard events into a run folder.

    With `resume_step`, what was logged after that step is dropped from both, so a run that was killed and resumed
    logs what an uninterrupted one does. Figures that are not finite are null in the lines and absent from TensorBoard.
    What a full disk takes not is kept in memory, with a warning, and written once it does.
    """

    def __init__(self, folder: str | os.PathLike[str], resume_step: int | None = None) -> None:
        path = Path(folder) / "metrics.jsonl"
        if resume_step is not None and path.exists():
            _drop_lines_after(path, resume_step)
        self._lines = path.open("xb" if resume_step is None else "ab", buffering=ROOM)
        # The suffix keeps a run that is resumed within a second from overwriting its own events.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        self._events = path.with_name(name).open("wb", buffering=ROOM)
        self._patience = Patience()
        # TensorBoard forgets steps from a START on, but not at the first of a run: hence also the 0.
        self._add_event(file_version="brain.Event:2")
        self._add_event(
            step=0 if resume_step is None else resume_step + 1, session_log=SessionLog(status=SessionLog.START)
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record scalars at a step."""
        finite = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
            if math.isfinite(value)
        ]

        def write() -> None:
            self._lines.write((to_json({"step": int(step), **metrics}) + "\n").encode())
            self._add_event(step=int(step), summary=Summary(value=finite))
            for file in (self._lines, self._events):
                with naming(file.name):
                    file.flush()

        self._patience.try_to(write, "figures", "they will be, once they can")

    def _add_event(self, **fields: Any) -> None:
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        for part in (size, data):
            self._events.write(part + struct.pack("<I", masked_crc32c(part)))

    def close(self) -> None:
        for file in (self._lines, self._events):
            with contextlib.suppress(OSError):  # said before
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _drop_lines_after(path: Path, step: int) -> None:
    def is_kept(line: str) -> bool:
        try:
            return json.loads(line)["step"] <= step
        except (ValueError, TypeError, KeyError):  # cut short by a crash, or of another hand
            return False

    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    write_atomic(path, "".join(f"{line}\n" for line in lines if is_kept(line)))


class Progress:
    """A live bar on a terminal; elsewhere a plain line at the first update, every `interval` seconds and at the end.

    total, completed: steps of the whole run, and those done before this process took over.
    """

    def __init__(
        self, total: int, completed: int = 0, *, interval: float = 30.0, console: Console | None = None
    ) -> None:
        console = console or Console()
        self._total, self._interval, self._next_line = total, interval, 0.0
        self._bar = Bar(
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            expand=True,
            refresh_per_second=4,
            speed_estimate_period=600.0,
        )
        self._bar.add_task("", total=total, completed=completed, status="compiling")
        (self._task,) = self._bar.tasks

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(
        self, completed: int, *, fps: float = math.nan, success: float = math.nan, episode_return: float = math.nan
    ) -> None:
        """Show the steps done so far. fps: steps/s. success: 0 to 1. NaN shows as a dash."""
        figures = (
            f"{_short(completed)}/{_short(self._total)}",
            f"{_dash(fps, _short)} fps",
            f"success {_dash(success, '{:.0%}'.format)}",
            f"return {_dash(episode_return, '{:.2f}'.format)}",
        )
        self._bar.update(self._task.id, completed=completed, status="  ".join(figures))
        now = time.monotonic()
        if self._bar.disable and (now >= self._next_line or completed >= self._total):
            self._next_line = now + self._interval
            elapsed, remaining = _clock(self._task.elapsed), _clock(self._task.time_remaining)
            line = "  ".join((f"{self._task.percentage:3.0f}%", *figures, f"elapsed {elapsed}", f"eta {remaining}"))
            say(line, self._bar.console.file)  # type: ignore[arg-type]


def _short(count: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:  # what would round to 1000 of the next smaller
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def _dash(value: float, render: Any) -> str:
    return render(value) if math.isfinite(value) else "-"


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(datetime.timedelta(seconds=int(seconds)))


def system_metrics() -> dict[str, float]:
    """Memory in GiB: this process's resident set now, and the peak of all local accelerators (0 where unknown)."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return {
        "system/cpu_memory": _resident_bytes() / 2**30,
        "system/gpu_memory": sum(stat.get("peak_bytes_in_use", 0) for stat in stats) / 2**30,
    }


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # without /proc, the peak; kilobytes but on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
