"""What trackers hold of a run, read by their own tools, in a form in which trackers can be compared."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

from trainers.track.tracking import TRACKERS

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds of a piece of a record in W&B's files
BLOCK = 32768  # bytes


@dataclass
class Held:
    """Of one run. histograms: sums of their counts."""

    scalars: list[tuple[int, str, float]] = field(default_factory=list)
    histograms: list[tuple[int, str, int]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)

    def sorted(self):
        return Held(sorted(self.scalars), sorted(self.histograms), sorted(self.files), self.options)


def held_by(tracker, folder, project):
    return {"tensorboard": in_tensorboard, "wandb": in_wandb, "mlflow": in_mlflow, "trackio": in_trackio}[tracker](
        Path(folder), project
    ).sorted()


def in_tensorboard(folder, project):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"tensors": 0, "scalars": 0, "histograms": 0, "images": 0}).Reload()
    tags, held = events.Tags(), Held()
    for name in tags["scalars"]:
        held.scalars += [(event.step, name, event.value) for event in events.Scalars(name)]
    for name in tags["tensors"]:  # what newer TensorBoards make of scalars; and texts
        for event in events.Tensors(name):
            if event.tensor_proto.float_val:
                held.scalars.append((event.step, name, event.tensor_proto.float_val[0]))
            else:
                held.files.append(name.removesuffix("/text_summary"))
    for name in tags["histograms"]:
        held.histograms += [(event.step, name, int(event.histogram_value.num)) for event in events.Histograms(name)]
    held.files += [name for name in tags["images"] for _ in events.Images(name)]
    return held


def in_wandb(folder, project):
    held = Held()
    for file in sorted(folder.glob("wandb/*run-*/*.wandb")):
        for record in finished(file):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                step, values = record.history.step.num, {}
                for item in record.history.item:
                    name, *inner = item.nested_key
                    value = json.loads(item.value_json)
                    if inner:
                        values.setdefault(name, {})[inner[0]] = value
                    elif not name.startswith("_"):
                        held.scalars.append((step, name, value))
                for name, value in values.items():
                    if value["_type"] == "histogram":
                        held.histograms.append((step, name, sum(value["values"])))
                    else:
                        held.files.append(name)
            elif kind == "run":
                held.options |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "artifact":
                held.files.append(f"{record.artifact.type}:{record.artifact.name.split('-')[-1]}")
    held.options = {name: value for name, value in held.options.items() if not name.startswith("_")}
    return held


def finished(file):
    """The records of a run, once W&B's service has written the last one."""
    for _ in range(200):
        records = list(wandb_records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        time.sleep(0.05)
    return records


def wandb_records(file):
    """The records of a .wandb file: frames as in LevelDB's logs around W&B's own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        piece = data[at + 7 : at + 7 + length]
        at += 7 + length
        whole = piece if kind in (FULL, FIRST) else whole + piece
        if kind in (FULL, LAST):
            yield Record.FromString(whole)


def in_mlflow(folder, project, uri=None):
    from mlflow import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(project)
    (run,) = client.search_runs([experiment.experiment_id])
    held = Held(options=run.data.params)
    for name in run.data.metrics:
        held.scalars += [(m.step, m.key, m.value) for m in client.get_metric_history(run.info.run_id, name)]
    for path in _artifacts(client, run.info.run_id):
        if path.startswith("histograms/"):
            *name, step = path.removeprefix("histograms/").removesuffix(".json").split("/")
            counts = json.loads(Path(client.download_artifacts(run.info.run_id, path)).read_text())["counts"]
            held.histograms.append((int(step), "/".join(name), sum(counts)))
        else:
            held.files.append(path)
    return held


def _artifacts(client, run_id, path=None):
    for info in client.list_artifacts(run_id, path):
        yield from _artifacts(client, run_id, info.path) if info.is_dir else [info.path]


def in_trackio(folder, project):
    """Straight from the SQLite file of the project, of which the test has but one run."""
    held = Held()
    with sqlite3.connect(Path(os.environ["TRACKIO_DIR"]) / f"{project}.db") as base:
        for step, metrics in base.execute("SELECT step, metrics FROM metrics"):
            for name, value in json.loads(metrics).items():
                if isinstance(value, dict) and value["_type"] == "trackio.histogram":
                    held.histograms.append((step, name, sum(value["values"])))
                elif isinstance(value, dict):
                    held.files.append(name)
                else:
                    held.scalars.append((step, name, value))
        held.files += [name.split("-")[-1] for (name,) in base.execute("SELECT name FROM artifacts")]
        for (config,) in base.execute("SELECT config FROM configs"):
            held.options |= {name: value for name, value in json.loads(config).items() if not name.startswith("_")}
    return held


assert {"tensorboard", "wandb", "mlflow", "trackio"} == TRACKERS.keys()
