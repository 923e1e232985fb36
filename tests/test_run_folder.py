"""A run folder is never overwritten, and never used by two processes at once."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.common.checkpoint import save_checkpoint
from trainers.common.run_folder import default_run_dir, prepare_run_folder


def test_a_new_run_gets_its_folders(tmp_path):
    with prepare_run_folder(tmp_path / "runs" / "a") as folder:
        assert folder.path == tmp_path / "runs" / "a"
        assert folder.checkpoints.is_dir()
        assert folder.videos.is_dir()


def test_a_new_run_refuses_a_folder_with_files_and_leaves_it_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"--resume.*--run-dir"):
        prepare_run_folder(tmp_path)
    assert os.listdir(tmp_path) == ["data"]


def test_a_run_that_left_no_file_does_not_stand_in_the_way(tmp_path):
    prepare_run_folder(tmp_path).close()
    prepare_run_folder(tmp_path).close()


def test_resuming_needs_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        prepare_run_folder(tmp_path / "a", resume=True)
    assert not (tmp_path / "a").exists()
    with prepare_run_folder(tmp_path / "b") as folder:
        save_checkpoint(folder.checkpoints, {"a": np.zeros(1)}, 1)
    prepare_run_folder(tmp_path / "b", resume=True).close()


HOLD = """
import sys, time
from trainers.common.run_folder import prepare_run_folder
folder = prepare_run_folder(sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_is_no_obstacle(tmp_path):
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=root, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(BlockingIOError, match=f"in use by process {other.pid}"):
            prepare_run_folder(tmp_path)
        other.kill()
    prepare_run_folder(tmp_path).close()


def test_a_run_that_came_first_by_a_moment_is_noticed_and_the_lock_given_back(tmp_path, monkeypatch):
    flock = fcntl.flock
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *how: (flock(*how), (tmp_path / "metrics.jsonl").touch()))
        with pytest.raises(FileExistsError):
            prepare_run_folder(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    prepare_run_folder(tmp_path).close()


def test_the_default_name_tells_scenario_and_time():
    assert re.fullmatch(r"runs/rooms-\d{8}-\d{6}", str(default_run_dir("rooms")))


def test_a_run_that_died_before_its_first_checkpoint_may_begin_again(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    with prepare_run_folder(tmp_path) as folder:
        assert folder.checkpoints.is_dir()
