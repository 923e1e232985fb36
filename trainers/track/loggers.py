"""Write the figures of a run to files: JSON lines and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import time
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from trainers.run.files import Patience, naming, to_json, write_atomic

RECORD = 1 << 20  # bytes, more than any record has


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
        self._lines = path.open("xb" if resume_step is None else "ab", buffering=RECORD)
        # Without the time in ns, a run that is resumed within a second would overwrite its own events.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        self._events = path.with_name(name).open("wb", buffering=RECORD)
        self._waiting: dict[BinaryIO, deque[bytes]] = {self._lines: deque(), self._events: deque()}
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

        self._waiting[self._lines].append((to_json({"step": int(step), **metrics}) + "\n").encode())
        self._add_event(step=int(step), summary=Summary(value=finite))
        self._patience.try_to(self._write, "figures", "they are kept in memory and written later")

    def _write(self) -> None:
        """Write what waits, record by record: the file's own buffer holds at most the one that the disk refuses."""
        for file, records in self._waiting.items():
            with naming(file.name):
                file.flush()
                while records:
                    file.write(records.popleft())
                    file.flush()

    def _add_event(self, **fields: Any) -> None:
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        record = b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (size, data))
        self._waiting[self._events].append(record)

    def close(self) -> None:
        """Close the files. Warns if figures that wait still cannot be written."""
        try:
            self._write()
        except OSError as error:
            lost = 1 + len(self._waiting[self._lines])
            warnings.warn(f"the figures of the last {lost} updates could not be written ({error})", stacklevel=2)
        for file in self._waiting:
            with contextlib.suppress(OSError):
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _drop_lines_after(path: Path, step: int) -> None:
    def is_kept(line: str) -> bool:
        try:
            logged = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError, RecursionError):  # cut short by a crash, or not written by this logger
            return False
        return type(logged) is int and 0 <= logged <= step

    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    write_atomic(path, "".join(f"{line}\n" for line in lines if is_kept(line)))
