"""Weights & Biases: offline without a key, and whatever goes wrong costs one warning and no training."""

import socket
import sys
import time
import warnings

import pytest

from trainers.track import wandb as tracking
from trainers.track.wandb import Tracker, has_key

wandb = pytest.importorskip("wandb")


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


def test_without_a_key_a_run_is_kept_on_disk(tmp_path):
    with warnings.catch_warnings(action="error"), Tracker(tmp_path, "project", "swarm_1-abc", {"seed": 1}) as tracker:
        assert tracker.where == f"offline, in {tmp_path / 'wandb'}"
        tracker.log(5, {"loss/total": 1.25})
        (tmp_path / "a.gif").write_bytes(b"GIF89a")
        tracker.log_video("video/start", tmp_path / "a.gif")
    data = logged(tmp_path, b"loss/total")
    assert b"loss/total" in data
    assert b"1.25" in data
    assert b"swarm_1-abc" in data
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/videos/video/start*.gif"))


def test_a_server_out_of_reach_costs_one_warning_and_the_run_is_kept_on_disk(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    assert tracking.PATIENCE <= 20
    monkeypatch.setattr(tracking, "PATIENCE", 2)
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught, Tracker(tmp_path, "project", "swarm_1", {}) as tracker:
        warnings.simplefilter("always")
        tracker.log(5, {"loss/total": 1.25})
    assert time.monotonic() - started < 15
    assert len(caught) == 1
    assert "W&B does not work online" in str(caught[0].message)
    assert tracker.where.startswith("offline")
    assert b"loss/total" in logged(tmp_path, b"loss/total")


def test_what_fails_later_costs_one_warning(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("gone")

    tracker = Tracker(tmp_path, "project", "swarm_2", {})
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(wandb.Run, "log", fail)
        for step in range(3):
            tracker.log(step, {})
    tracker.close()
    wandb.finish()
    assert len(caught) == 1
    assert "nothing more is tracked" in str(caught[0].message)


def test_without_wandb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"entropy-env\[tracking\]"):
        Tracker(tmp_path, "project", "swarm_1", {})


def test_a_key_is_found_in_the_environment_and_where_login_puts_it(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example/api")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_key()
