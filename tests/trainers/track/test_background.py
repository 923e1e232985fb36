"""Whatever a tracker does, training goes on at its pace, and the user is told once."""

import threading
import time
import warnings

import pytest

from trainers.track import tracking
from trainers.track.background import Background
from trainers.track.tracking import Tracking


class Notes:
    """A tracker that notes what it gets."""

    def __init__(self):
        self.got = []

    def log(self, step, figures):
        self.got.append((step, dict(figures)))

    def file(self, name, path):
        self.got.append((name, path))

    def close(self, converged=False):
        self.got.append(converged)


class Hanging(Notes):
    def __init__(self):
        super().__init__()
        self.free = threading.Event()

    def log(self, step, figures):
        self.free.wait(20)
        super().log(step, figures)


class Failing(Notes):
    def log(self, step, figures):
        raise ConnectionError("the server is gone")


def feed(background, updates):
    for step in range(updates):
        background.log(step, {})


def finish(background, patience=20.0):
    background.end()
    background.wait(time.monotonic() + patience)


def test_a_tracker_gets_all_in_order_and_then_closes(tmp_path):
    notes = Notes()
    background = Background("notes", lambda: notes)
    for step in range(100):
        background.log(step, {"a": step / 4})
    background.file("config", tmp_path)
    background.end(converged=True)
    background.wait(time.monotonic() + 20)
    assert notes.got == [*((step, {"a": step / 4}) for step in range(100)), ("config", tmp_path), True]


def test_a_tracker_that_hangs_drops_what_the_queue_cannot_hold_counts_it_and_warns_once(capsys):
    hanging = Hanging()
    background = Background("slow", lambda: hanging, "; remedy", room=10)
    started = time.monotonic()
    with pytest.warns(UserWarning, match="slow does not keep up.*; remedy") as caught:
        feed(background, 100)
    assert time.monotonic() - started < 5
    assert len(caught) == 1
    assert background.dropped in (89, 90)  # ten wait, and one more may be with the tracker
    hanging.free.set()
    with warnings.catch_warnings(action="error"):
        finish(background)
    assert [step for step, _ in hanging.got[:-1]] == list(range(100 - background.dropped))
    assert f"slow lacks {background.dropped} updates; remedy" in capsys.readouterr().out


def test_the_end_of_a_run_waits_for_a_tracker_no_longer_than_it_is_told_to():
    hanging = Hanging()
    background = Background("stuck", lambda: hanging)
    background.log(1, {})
    started = time.monotonic()
    with pytest.warns(UserWarning, match="stuck has not finished in time") as caught:
        finish(background, patience=0.2)
    assert time.monotonic() - started < 5
    assert len(caught) == 1
    hanging.free.set()


@pytest.mark.parametrize("where", ["at the start", "later"])
def test_a_tracker_that_raises_costs_one_warning(where):
    def make():
        if where == "at the start":
            raise ConnectionError("the server is gone")
        return Failing()

    background = Background("broken", make)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(50):
            background.log(step, {})
            time.sleep(0.001)
        finish(background)
    (warning,) = caught
    assert "broken failed (the server is gone): training goes on without it" in str(warning.message)


def test_a_tracker_that_hangs_holds_up_no_other(tmp_path, monkeypatch):
    hanging, notes = Hanging(), Notes()
    monkeypatch.setattr(tracking, "make_tracker", lambda name, run: hanging if name == "wandb" else notes)
    monkeypatch.setattr(tracking, "check_installed", lambda names: None)
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    with (
        pytest.warns(UserWarning, match="wandb has not finished"),
        Tracking(tmp_path, ["wandb", "tensorboard"], "p") as run,
    ):
        run.log(1, {"a": 1.0})
    assert notes.got == [(1, {"a": 1.0}), False]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": 1.0}\n'
    hanging.free.set()


def test_no_thread_is_left_behind(tmp_path):
    before = set(threading.enumerate())
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        with Tracking(tmp_path / str(number), ["tensorboard"], "p") as run:
            run.log(1, {"a": 1.0})
    assert set(threading.enumerate()) <= before


def test_one_tracker_begins_at_a_time():
    at_once, most = [], []

    def make():
        at_once.append(1)
        time.sleep(0.05)
        most.append(len(at_once))
        at_once.pop()
        return Notes()

    backgrounds = [Background(str(number), make) for number in range(4)]
    for background in backgrounds:
        finish(background)
    assert most == [1, 1, 1, 1]
