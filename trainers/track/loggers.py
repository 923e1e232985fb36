"""Write the figures of a run to files: JSON lines and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from trainers.run.files import Patience, naming, to_json, write_atomic

ROOM = 1 << 20  # bytes of figures kept in memory while they cannot be written


class MetricsLogger:
    """Writes `metrics.jsonl`, one JSON object per line, and TensorBoard events into a run folder.

    With `resume_step`, figures logged after that step are dropped from both. A run that was killed and resumed thus logs
    the same as one that was not. Figures that are not finite are null in the lines and absent from TensorBoard.
    Figures that the disk refuses are kept in memory, with a warning, and written later.
    """

    def __init__(self, folder: str | os.PathLike[str], resume_step: int | None = None) -> None:
        path = Path(folder) / "metrics.jsonl"
        if resume_step is not None and path.exists():
            _drop_lines_after(path, resume_step)
        self._lines = path.open("xb" if resume_step is None else "ab", buffering=ROOM)
        # Without the time in ns, a run that is resumed within a second would overwrite its own events.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        self._events = path.with_name(name).open("wb", buffering=ROOM)
        self._patience = Patience()
        # TensorBoard drops earlier events from the step of a START on, but ignores the first START of a run. So a new run
        # writes one too, at step 0.
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

        self._patience.try_to(write, "figures", "they are kept in memory and written later")

    def _add_event(self, **fields: Any) -> None:
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        for part in (size, data):
            self._events.write(part + struct.pack("<I", masked_crc32c(part)))

    def close(self) -> None:
        for file in (self._lines, self._events):
            with contextlib.suppress(OSError):  # a warning has already said so
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _drop_lines_after(path: Path, step: int) -> None:
    def is_kept(line: str) -> bool:
        try:
            return json.loads(line)["step"] <= step
        except (ValueError, TypeError, KeyError):  # cut short by a crash, or not written by this logger
            return False

    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    write_atomic(path, "".join(f"{line}\n" for line in lines if is_kept(line)))
