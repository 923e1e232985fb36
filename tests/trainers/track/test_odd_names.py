"""Trackers take runs whose folders have names with signs that mean something to a tracker."""

import contextlib
import json
import os
import sqlite3
import tempfile
import warnings

import pytest

os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp())  # which trackio reads when it is imported
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from trainers.track.replay import replay
from trainers.track.tracker import safe_name
from trainers.track.tracking import Tracking

ODD = "it's 100% odd?:;,#ü"


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """Someone who has never used a tracker."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def test_a_safe_name_is_the_name_itself_or_ends_with_a_hash():
    assert safe_name("rooms-1_a.b") == "rooms-1_a.b"
    names = [safe_name(name) for name in ("a:b", "a;b", "a-b", "ü", "x" * 300, "x" * 299)]
    assert len(set(names)) == len(names) and max(map(len, names)) <= 100
    assert all(name.isascii() and not set(name) & set(":;/ ") for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_a_run_in_a_folder_with_an_odd_name_is_tracked_once(tracker, tmp_path):
    pytest.importorskip(tracker, reason=f"needs the extra {tracker}")
    folder = tmp_path / ODD
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step_1.safetensors").write_bytes(b"weights")
    (folder / "config.yaml").write_text("seed: 1\n")
    (folder / "evaluation-ö.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with Tracking(folder, [tracker], f"odd-{tracker}") as tracking:
            tracking.log(1, {"train/fps": 1.0})
            tracking.converged = True
        assert replay(folder, tracker, f"odd-{tracker}") == 1
    assert os.listdir(tmp_path) == [ODD]
    if tracker == "mlflow":
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as base:
            assert base.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)
            assert base.execute("SELECT name FROM registered_models").fetchall() == [(safe_name(ODD),)]
        assert list(folder.glob("mlartifacts/*/artifacts/checkpoint/step_1.safetensors"))
    if tracker == "wandb":
        assert list(folder.glob(f"wandb/offline-run-*-{json.loads((folder / 'run.json').read_text())['id']}"))
