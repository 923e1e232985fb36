"""Track a run with TensorBoard: event files in the run folder.

tensorboardX's own writer hands events to a thread that a full disk ends, so the records are written here, of its messages.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import HistogramProto, Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import text

from trainers.track.records import Records
from trainers.track.tracker import Figure, Histogram, Run

RGB = 3  # TensorBoard's number for the colours of an image


class TensorBoard:
    """Writes events into the run folder. TensorBoard shows those of a resumed or replayed run in place of the earlier ones.

    Of files it shows GIFs as images and the others as text. Checkpoints and MP4s it cannot show.
    """

    def __init__(self, run: Run) -> None:
        # Without the time in ns, a run that is resumed within a second would overwrite its own events.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        self._records = Records(run.folder / name, "wb")
        self._step = max(0, run.resume_step or 0)
        # TensorBoard drops earlier events from the step of a START on, but ignores the first START of a run. So a new run
        # writes one too, at step 0.
        self._add(file_version="brain.Event:2")
        self._add(step=0 if run.resume_step is None else run.resume_step + 1,
                  session_log=SessionLog(status=SessionLog.START))  # fmt: skip

    def log(self, step: int, figures: Mapping[str, Figure]) -> None:
        self._step = step
        self._add(step=step, summary=Summary(value=[_value(name, figure) for name, figure in figures.items()]))

    def file(self, name: str, path: Path) -> None:
        if path.suffix == ".gif":
            image = path.read_bytes()
            width, height = struct.unpack("<HH", image[6:10])
            shown = Summary.Image(height=height, width=width, colorspace=RGB, encoded_image_string=image)
            self._add(step=self._step, summary=Summary(value=[Summary.Value(tag=name, image=shown)]))
        elif path.suffix in (".yaml", ".json"):
            lines = path.read_text(encoding="utf-8").splitlines()
            self._add(step=self._step, summary=text(name, "\n".join(f"    {line}" for line in lines)))

    def close(self, converged: bool = False) -> None:
        self._records.close()

    def _add(self, **fields: Any) -> None:
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        self._records.append(b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (size, data)))


def _value(name: str, figure: Figure) -> Summary.Value:
    if not isinstance(figure, Histogram):
        return Summary.Value(tag=name, simple_value=figure)
    counts, edges = np.array(figure.counts), np.array(figure.edges)
    middles = (edges[1:] + edges[:-1]) / 2
    return Summary.Value(
        tag=name,
        histo=HistogramProto(
            min=edges[0], max=edges[-1], num=counts.sum(), sum=counts @ middles, sum_squares=counts @ middles**2,
            bucket_limit=edges[1:].tolist(), bucket=counts.tolist(),
        ),
    )  # fmt: skip
