"""Weights & Biases: offline without a key, and whatever goes wrong costs one warning and no training."""

import contextlib
import socket
import time
import warnings

import pytest
from helpers.trackers import in_wandb

from trainers.track.tracker import Run

wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
tracking = pytest.importorskip("trainers.track.wandb")
WandB, has_key = tracking.WandB, tracking.has_key


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """Someone who has never used W&B."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def logged(folder, what):
    """The bytes of the only run in a folder of W&B, once its service has written what is looked for."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    for _ in range(200):
        if what in file.read_bytes():
            break
        time.sleep(0.05)
    return file.read_bytes()


def track(folder, id="swarm_1-abc"):
    """A tracker that is closed at the end of a `with` block."""
    return contextlib.closing(WandB(Run(folder, "project", "swarm_1", id, {"seed": 1})))


def test_without_a_key_a_run_is_kept_on_disk(tmp_path, capsys):
    with warnings.catch_warnings(action="error"), track(tmp_path) as tracker:
        assert f"W&B: offline, in {tmp_path / 'wandb'}" in capsys.readouterr().out
        tracker.log(5, {"loss/total": 1.25})
        (tmp_path / "a.gif").write_bytes(b"GIF89a")
        tracker.file("video/start", tmp_path / "a.gif")
    data = logged(tmp_path, b"loss/total")
    assert b"loss/total" in data
    assert b"1.25" in data
    assert b"swarm_1-abc" in data
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/videos/video/start*.gif"))


def test_a_server_out_of_reach_costs_one_warning_and_the_run_is_kept_on_disk(tmp_path, monkeypatch, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    assert tracking.PATIENCE <= 20
    monkeypatch.setattr(tracking, "PATIENCE", 2)
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught, track(tmp_path, "swarm_2-abc") as tracker:
        warnings.simplefilter("always")
        tracker.log(5, {"loss/total": 1.25})
    assert time.monotonic() - started < 15
    assert len(caught) == 1
    assert "W&B does not work online" in str(caught[0].message)
    assert "W&B: offline" in capsys.readouterr().out
    assert b"loss/total" in logged(tmp_path, b"loss/total")


def test_a_run_that_goes_on_doubles_no_step(tmp_path):
    for steps in ((1, 2, 3), (2, 3, 4)):
        with track(tmp_path) as tracker:
            for step in steps:
                tracker.log(step, {"loss/total": step / 4})
    assert [entry for entry in in_wandb(tmp_path, "project").scalars if entry[1] == "loss/total"] == [
        (step, "loss/total", step / 4) for step in (1, 2, 3, 4)
    ]


def test_a_key_is_found_in_the_environment_and_where_login_puts_it(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example/api")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_key()
