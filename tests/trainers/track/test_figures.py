"""A resumed run logs what an uninterrupted one does, and progress shows with or without a terminal."""

import contextlib
import io
import itertools
import json
import math
import re
import struct
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.disk import full_disk
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from trainers.track.jsonl import JsonLines
from trainers.track.progress import Progress
from trainers.track.system import system_metrics
from trainers.track.tensorboard import TensorBoard
from trainers.track.tracker import Run, as_figure


class Files:
    """JSON lines and TensorBoard's events, without a thread."""

    def __init__(self, folder, resume_step=None):
        self.lines = JsonLines(folder, resume_step)
        self.events = TensorBoard(Run(folder, "project", "name", "id", {}, resume_step))

    def log(self, step, metrics):
        self.lines.log(step, metrics)
        self.events.log(int(step), {name: value for name, value in metrics.items() if as_figure(value) is not None})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.events.close()


def log(folder, steps, resume_step=None):
    with Files(folder, resume_step) as logger:
        for step in steps:
            logger.log(step, {"loss/policy": step / 4})


def events(folder):
    """What TensorBoard shows as [(step, tag, value)]: a START mark, but for the first, hides steps from its own on."""
    shown, marks = [], 0
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                marks += 1
                shown = [entry for entry in shown if marks == 1 or entry[0] < event.step]
            shown += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return shown


def test_each_line_is_one_json_object_on_disk_at_once(tmp_path):
    with Files(tmp_path) as logger:
        logger.log(np.int64(3), {"train/fps": 12.5, "env/episodes": 2, "loss/value": jnp.float32(0.5)})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 3, "train/fps": 12.5, "env/episodes": 2, "loss/value": 0.5}
    ]


def test_figures_that_are_not_finite_keep_the_lines_standard_json(tmp_path):
    with Files(tmp_path) as logger:
        logger.log(1, {"a": math.nan, "b": np.float32("inf"), "c": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": null, "b": null, "c": 1.0}\n'
    assert events(tmp_path) == [(1, "c", 1.0)]


def test_a_killed_and_resumed_run_logs_what_an_uninterrupted_one_does(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    log(whole, range(8))
    log(resumed, range(6))
    with (resumed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss/pol')
    log(resumed, range(4, 7), resume_step=3)
    log(resumed, range(6, 8), resume_step=5)
    assert (resumed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert events(resumed) == events(whole) == [(step, "loss/policy", step / 4) for step in range(8)]


@pytest.mark.parametrize(
    "line", ["3", "null", "[1]", '"step"', "{}", '{"step": "1"}', '{"step": null}', '{"step": 1', ""]
)
def test_a_line_that_is_no_record_is_dropped_on_resume(tmp_path, line):
    log(tmp_path, range(2))
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n{whole}{line}")
    log(tmp_path, [], resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_a_new_run_does_not_overwrite_the_lines_of_another(tmp_path):
    log(tmp_path, range(2))
    with pytest.raises(FileExistsError):
        JsonLines(tmp_path)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_killed_before_its_first_line_can_resume(tmp_path):
    log(tmp_path, range(1, 3), resume_step=0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_without_a_terminal_progress_is_plain_lines(monkeypatch):
    file = io.StringIO()
    with Progress(1_000_000, interval=0, console=Console(file=file)) as progress:
        for step in (250_000, 500_000, 1_000_000):
            progress.update(step, fps=12_345.6, success=0.875, episode_return=-1.5)
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    pattern = r" 50%  500k/1M  12\.3k fps  success 88%  return -1\.50  elapsed 0:00:00  eta \d:\d\d:\d\d"
    assert re.fullmatch(pattern, lines[1])
    assert lines[2].startswith("100%")


def test_plain_lines_come_now_and_then_and_at_the_end():
    file = io.StringIO()
    with Progress(1000, interval=3600, console=Console(file=file)) as progress:
        for step in range(1, 1001):
            progress.update(step)
    assert [line.split()[1] for line in file.getvalue().splitlines()] == ["1/1k", "1k/1k"]
    assert "success -" in file.getvalue()


def test_on_a_terminal_progress_is_a_bar_that_fits_80_columns():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    with Progress(100_000_000, console=console) as progress:
        for step in itertools.accumulate([12_345_678] * 3):
            progress.update(step, fps=123_456, success=1.0, episode_return=-12.345)
    last = re.split(r"[\r\n]|\x1b\[2K", file.getvalue().strip())[-2:]
    assert "37M/100M  123k fps  success 100%  return -12.35" in "".join(last)
    assert "…" not in "".join(last)
    assert "elapsed" not in file.getvalue()


def test_a_resumed_run_starts_from_the_share_already_done():
    file = io.StringIO()
    with Progress(1000, completed=500, console=Console(file=file, force_terminal=True, color_system=None)):
        assert "50% compiling" in file.getvalue()


def test_memory_is_in_gib():
    metrics = system_metrics()
    assert 0.01 < metrics["system/cpu_memory"] < 100
    assert metrics["system/gpu_memory"] >= 0.0


def test_figures_are_in_tensorboard_at_once_and_as_it_reads_them(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    with contextlib.closing(TensorBoard(Run(tmp_path, "project", "name", "id", {}))) as tracker:
        tracker.log(3, {"loss/policy": 0.5, "loss/value": 2.0})
        (path,) = tmp_path.glob("events.*")  # as a kill would leave it
        read = [(event.step, value.tag, value.tensor.float_val[0])
                for event in loader.EventFileLoader(str(path)).Load() for value in event.summary.value]  # fmt: skip
    assert read == [(3, "loss/policy", 0.5), (3, "loss/value", 2.0)]


def test_figures_that_a_full_disk_does_not_take_are_written_later(tmp_path):
    with Files(tmp_path) as logger, warnings.catch_warnings(record=True) as caught, full_disk(1000):
        for step in range(100):
            logger.log(step, {"loss/policy": step / 4})
    texts = sorted(str(warning.message) for warning in caught)
    assert [re.search(rf"figures could not be written \(.*'{tmp_path}/(\w+).*'\)", text)[1] for text in texts] == [
        "events",
        "metrics",
    ]
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [*range(100)]
    assert events(tmp_path) == [(step, "loss/policy", step / 4) for step in range(100)]


def test_no_number_of_updates_is_too_many_for_a_full_disk(tmp_path):
    """What waits is more than a file's buffer holds."""
    figures = {f"figure/{index}": 1 / 3 for index in range(100)}
    with Files(tmp_path) as logger:
        with full_disk(1000), pytest.warns(UserWarning, match="kept in memory"):  # noqa: PT031
            for step in range(1000):
                logger.log(step, figures)
        logger.log(1000, figures)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*range(1001)]
    assert len(events(tmp_path)) == 1001 * 100


def test_figures_that_are_lost_in_the_end_are_counted(tmp_path):
    with full_disk(1000), pytest.warns(UserWarning) as caught:
        log(tmp_path, range(100))
    kept = (tmp_path / "metrics.jsonl").read_text().count("\n")
    assert 0 < kept < 100
    lost = f"figures of the last {100 - kept} updates could not be written"
    assert any(lost in str(warning.message) for warning in caught)


@pytest.mark.parametrize("junk", ["[" * 100_000, '{"step": true}', '{"step": -5}', '{"step": 0.5}', "3", "\0"])
def test_a_line_of_another_hand_is_dropped(tmp_path, junk):
    log(tmp_path, range(3))
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write(junk + "\n")
    log(tmp_path, [2], resume_step=1)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]


def test_a_disk_that_stays_full_ends_no_run(tmp_path):
    with full_disk(1000), pytest.warns(UserWarning, match="could not be written"):
        log(tmp_path, range(100))
