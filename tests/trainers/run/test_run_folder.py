"""A run folder is never overwritten, and never used by two processes at once."""

import datetime
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.jax_ppo import PPOConfig
from trainers.run.checkpoint import save_checkpoint
from trainers.run.config import save_config
from trainers.run.folder import begin_run_folder, prepare_run_folder

SMALL = {"a": np.zeros(1)}


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
        save_checkpoint(folder.checkpoints, SMALL, 1)
    prepare_run_folder(tmp_path / "b", resume=True).close()


HOLD = """
import sys, time
from trainers.run.folder import prepare_run_folder
folder = prepare_run_folder(sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_is_no_obstacle(tmp_path):
    root = Path(__file__).parents[3]
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


def test_the_default_name_tells_scenario_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with begin_run_folder("rooms") as folder:
        assert re.fullmatch(r"runs/rooms-\d{8}-\d{6}", str(folder.path))


def test_runs_within_a_second_take_the_next_free_name(tmp_path, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(datetime, "datetime", Clock)
    with begin_run_folder("open", tmp_path) as first, begin_run_folder("open", tmp_path) as second:
        assert (first.path.name, second.path.name) == ("open-20260102-030405", "open-20260102-030405-2")
        save_checkpoint(first.checkpoints, SMALL, 0)
    with begin_run_folder("open", tmp_path) as third:  # the second has left nothing
        assert third.path == second.path
        save_checkpoint(third.checkpoints, SMALL, 0)
    with begin_run_folder("open", tmp_path) as fourth:
        assert fourth.path.name == "open-20260102-030405-3"


def test_a_run_that_died_before_its_first_checkpoint_may_begin_again(tmp_path):
    (tmp_path / ".lock").write_text("1")
    (tmp_path / "config.yaml").write_text("seed: 1")
    with prepare_run_folder(tmp_path) as folder:
        assert folder.checkpoints.is_dir()


def test_a_config_that_no_run_has_left_is_somebodys_own(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    with pytest.raises(FileExistsError, match="already holds"):
        prepare_run_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_where_no_folder_can_be_made_no_other_name_is_tried(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "missing")
    with pytest.raises(FileExistsError):
        begin_run_folder("open", tmp_path / "runs")


DIE = """
import os, signal, sys
import numpy as np
from trainers.run.checkpoint import save_checkpoint
from trainers.run.config import save_config
from trainers.run.folder import prepare_run_folder
from trainers.jax_ppo import PPOConfig
replace, left = os.replace, iter(range(int(sys.argv[2])))
def or_die(*names):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = or_die
with prepare_run_folder(sys.argv[1]) as folder:
    save_config(folder.config, PPOConfig())
    save_checkpoint(folder.checkpoints, {"a": np.zeros(1)}, 0)
"""


@pytest.mark.parametrize("written", [0, 1])
def test_kill_9_before_the_first_checkpoint_is_whole_is_no_obstacle(tmp_path, written):
    run = tmp_path / "run"
    died = subprocess.run([sys.executable, "-c", DIE, run, str(written)], cwd=Path(__file__).parents[3], check=False)
    assert died.returncode == -signal.SIGKILL
    left = [path.name for path in run.rglob("*") if path.suffix == ".tmp"]
    assert len(left) == 1
    with prepare_run_folder(run) as folder:
        save_config(folder.config, PPOConfig())
        save_checkpoint(folder.checkpoints, SMALL, 0)
    assert {path.name for path in run.rglob("*") if path.is_file()} == {
        ".lock", "config.yaml", "step_000000000000.safetensors",
    }  # fmt: skip
    prepare_run_folder(run, resume=True).close()


def test_what_fails_before_its_first_checkpoint_leaves_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine", tmp_path / "new" / "runs" / "a"):
        with pytest.raises(ZeroDivisionError), prepare_run_folder(path) as folder:
            save_config(folder.config, PPOConfig())
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_what_fails_after_its_first_checkpoint_leaves_it(tmp_path):
    with pytest.raises(ZeroDivisionError), prepare_run_folder(tmp_path / "a") as folder:
        save_checkpoint(folder.checkpoints, SMALL, 0)
        raise ZeroDivisionError
    assert folder.videos.is_dir()
    prepare_run_folder(tmp_path / "a", resume=True).close()
