"""A resumed run sends a tracker what a kill lost on the way to it, and one tracker that fails holds up no other."""

from trainers.track import __main__ as command
from trainers.track import tracking
from trainers.track.tracking import Tracking


class Skipping:
    SKIPS = True

    def __init__(self):
        self.got = {}

    def log(self, step, figures):
        self.got.setdefault(step, dict(figures))

    def file(self, name, path):
        pass

    def close(self, converged=False):
        pass


def test_what_a_kill_lost_on_the_way_is_sent_again(tmp_path, monkeypatch):
    tracker = Skipping()
    monkeypatch.setattr(tracking, "make_tracker", lambda name, run: tracker)
    with Tracking(tmp_path, ["tensorboard"], "p") as run:
        for step in (1, 2, 3):
            run.log(step, {"x": step})
    del tracker.got[2], tracker.got[3]
    with Tracking(tmp_path, ["tensorboard"], "p", resume_step=2) as run:
        run.log(3, {"x": 30})
    assert tracker.got == {1: {"x": 1.0}, 2: {"x": 2.0}, 3: {"x": 30.0}}


def test_a_tracker_that_fails_is_named_and_the_others_get_the_run(tmp_path, monkeypatch, capsys):
    def replay(folder, name, project):
        if name == "mlflow":
            raise RuntimeError("no room")
        return 7

    monkeypatch.setattr(command, "replay", replay)
    monkeypatch.setattr(command, "check_installed", lambda names: None)
    assert command.main([str(tmp_path), "--to", "mlflow", "tensorboard"]) == 2
    told = capsys.readouterr()
    assert "error: mlflow: no room" in told.err and "tensorboard: 7 updates" in told.out
