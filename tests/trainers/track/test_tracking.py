"""All trackers hold of a run what its JSON lines say, live, resumed or replayed, and a wrong name is told apart."""

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()  # which trackio reads when it is imported
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from helpers.trackers import held_by, in_mlflow

from trainers.jax_ppo import PPOConfig, main, train
from trainers.run.config import load_config, save_config
from trainers.run.options import RunOptions
from trainers.track.__main__ import main as track
from trainers.track.jsonl import read_lines
from trainers.track.tracker import Histogram
from trainers.track.tracking import TRACKERS, Tracking, files_of

TINY = PPOConfig(num_agents=2, num_envs=4, num_steps=8, num_minibatches=2, num_epochs=1, total_steps=5 * 64)
GIF = b"GIF89a\x02\x00\x01\x00"  # the beginning, which tells the size
EACH = [
    pytest.param(name, marks=[] if name == "tensorboard" else pytest.mark.slow)  # whose libraries take long to import
    for name in TRACKERS
]
FILES = {
    "tensorboard": ["config", "evaluation", "video/end"],  # and no checkpoint
    "wandb": ["model:checkpoint", "report:config", "report:evaluation", "video/end"],
    "mlflow": ["checkpoint/step_3.safetensors", "config/config.yaml", "evaluation/evaluation.json", "video/end.gif"],
    "trackio": ["checkpoint", "config", "evaluation", "video/end"],
}
LIBRARY = {"tensorboard": "tensorboard.backend.event_processing.event_accumulator"}


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """Someone who has never used a tracker."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def needs(tracker):
    pytest.importorskip(LIBRARY.get(tracker, tracker), reason=f"needs the extra {tracker}")


def begin(folder):
    """A run folder as a trainer leaves it."""
    for name in ("checkpoints", "videos"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\nenv_params: {max_wheel_speed: 0.8}\n")
    (folder / "checkpoints" / "step_3.safetensors").write_bytes(b"weights")
    (folder / "videos" / "end.gif").write_bytes(GIF)
    (folder / "evaluation.json").write_text('{"success": 1.0}')
    return folder


def figures(step):
    return {"train/fps": 1000.5 + step, "loss/policy": step / 4, "env/episodes": step, "none": float("nan"),
            "actions": np.arange(step + 2.0)}  # fmt: skip


@contextlib.contextmanager
def no_warning():
    """But libraries may say what is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def log(folder, tracker, steps, resume_step=None):
    with no_warning(), Tracking(folder, [tracker], folder.parent.name, resume_step) as run:
        for step in steps:
            run.log(step, figures(step))


def expected(steps):
    scalars = [(step, name, value) for step in steps for name, value in figures(step).items()
               if np.ndim(value) == 0 and np.isfinite(value)]  # fmt: skip
    return sorted(scalars), sorted((step, "actions", step + 2) for step in steps)


@pytest.mark.parametrize("tracker", EACH)
def test_a_tracker_holds_a_run_and_a_replayed_one_is_the_same(tracker, tmp_path):
    needs(tracker)
    live, again = begin(tmp_path / "live-project" / "run"), begin(tmp_path / "replayed-project" / "run")
    log(live, tracker, range(1, 4))
    held = held_by(tracker, live, "live-project")
    assert (held.scalars, held.histograms) == expected(range(1, 4))
    assert held.files == FILES[tracker]
    shutil.copy(live / "metrics.jsonl", again)
    shutil.copy(live / "run.json", again)
    assert track([str(again), "--to", tracker, "--project", "replayed-project"]) == 0
    assert held_by(tracker, again, "replayed-project") == held
    assert track([str(again), "--to", tracker, "--project", "replayed-project"]) == 0
    assert held_by(tracker, again, "replayed-project").scalars == held.scalars


@pytest.mark.parametrize("tracker", EACH)
def test_a_killed_and_resumed_run_is_one_run_in_which_nothing_is_doubled(tracker, tmp_path):
    needs(tracker)
    folder = begin(tmp_path / "resumed-project" / "run")
    log(folder, tracker, range(1, 6))
    log(folder, tracker, range(4, 8), resume_step=3)
    held = held_by(tracker, folder, "resumed-project")
    assert (held.scalars, held.histograms) == expected(range(1, 8))


@pytest.mark.slow
def test_options_are_parameters(tmp_path):
    for tracker in ("mlflow", "wandb", "trackio"):
        needs(tracker)
        log(begin(tmp_path / f"options-{tracker}" / "run"), tracker, [1])
        options = held_by(tracker, tmp_path / f"options-{tracker}" / "run", f"options-{tracker}").options
        nested = {"seed": 1, "env_params": {"max_wheel_speed": 0.8}}
        assert options == ({"seed": "1", "env_params.max_wheel_speed": "0.8"} if tracker == "mlflow" else nested)


@pytest.mark.slow
def test_a_run_that_converged_has_its_checkpoint_in_the_registry_of_mlflow(tmp_path):
    needs("mlflow")
    from mlflow import MlflowClient

    def stop(moment):
        moment.stop("good enough")

    for number, hooks in enumerate(([], [stop])):
        config = dataclasses.replace(TINY, run_dir=tmp_path / f"run{number}", track=("mlflow",))
        train(config, hooks)
        client = MlflowClient(f"sqlite:///{config.run_dir / 'mlflow.db'}")
        versions = client.search_model_versions("name = 'run1'")
        assert len(versions) == number
    (version,) = versions
    (run,) = client.search_runs([client.get_experiment_by_name("entropy-env").experiment_id])
    assert version.run_id == run.info.run_id
    place = client.get_model_version_download_uri("run1", version.version)
    assert place.endswith("checkpoint/step_000000000064.safetensors")
    kept = Path(
        client.download_artifacts(run.info.run_id, place.split(f"{run.info.run_id}/")[1].removeprefix("artifacts/"))
    )
    assert kept.read_bytes() == files_of(config.run_dir)["checkpoint"].read_bytes()
    assert track([str(config.run_dir), "--to", "mlflow"]) == 0
    assert len(client.search_model_versions("name = 'run1'")) == 1


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.mark.slow
def test_a_server_of_mlflow_out_of_reach_costs_a_warning(tmp_path, monkeypatch):
    needs("mlflow")
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    config = dataclasses.replace(TINY, run_dir=tmp_path / "run", track=("mlflow",))
    with pytest.warns(UserWarning, match=f"mlflow failed.*http://127.0.0.1:{port} is out of reach") as caught:
        train(config)
    assert len([warning for warning in caught if "mlflow" in str(warning.message)]) == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert track([str(tmp_path / "run"), "--to", "mlflow"]) == 0
    assert len({step for step, *_ in in_mlflow(tmp_path / "run", "entropy-env").scalars}) == 5


@pytest.mark.slow
def test_a_server_of_mlflow_gets_a_run(tmp_path, monkeypatch):
    needs("mlflow")
    port = free_port()
    places = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "art"),
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *places],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_for(port)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        folder = begin(tmp_path / "server-project" / "run")
        log(folder, "mlflow", range(1, 4))
        held = in_mlflow(folder, "server-project", uri).sorted()
        assert (held.scalars, held.histograms) == expected(range(1, 4))
        assert held.files == FILES["mlflow"]
    finally:
        server.terminate()
        server.wait(30)


def wait_for(port):
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the server did not start")


@pytest.mark.slow
def test_all_trackers_together_hold_a_training(tmp_path):
    for tracker in TRACKERS:
        needs(tracker)
    config = dataclasses.replace(TINY, run_dir=tmp_path / "run", track=tuple(TRACKERS), track_project="together")
    train(config)
    lines = dict(read_lines(tmp_path / "run"))
    assert list(lines) == [64, 128, 192, 256, 320]
    wanted = sorted((step, name, value) for step, figures in lines.items() for name, value in figures.items())
    for tracker in TRACKERS:
        scalars = held_by(tracker, tmp_path / "run", "together").scalars
        close = [(step, name, pytest.approx(value, rel=1e-6)) for step, name, value in wanted]  # float32 in TensorBoard
        assert scalars == close


def test_lines_come_back_as_they_were_written(tmp_path):
    log(begin(tmp_path / "p" / "run"), "tensorboard", [3])
    ((step, read),) = read_lines(tmp_path / "p" / "run")
    assert step == 3
    assert read.keys() == {"train/fps", "loss/policy", "env/episodes", "actions"}
    assert isinstance(read["actions"], Histogram)
    assert sum(read["actions"].counts) == 5


def test_an_unknown_tracker_is_told_apart_by_the_nearest_name(capsys):
    with pytest.raises(ValueError, match=r"no tracker 'mlfow'; did you mean 'mlflow'\?"):
        RunOptions(track=("mlfow",))
    with pytest.raises(SystemExit):
        main(["--track", "tensorboard", "wandbb"])
    assert "did you mean 'wandb'?" in capsys.readouterr().err
    assert track(["nowhere", "--to", "csv"]) == 2
    assert "choose from tensorboard, wandb, mlflow, trackio" in capsys.readouterr().err


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_names_its_extra_before_anything_is_made(
    tracker, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, tracker, None)
    assert main(["--track", tracker, "--run-dir", str(tmp_path / "run")]) == 2
    assert f"pip install 'entropy-env[{tracker}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert track([str(tmp_path), "--to", tracker]) == 2
    assert f"pip install 'entropy-env[{tracker}]'" in capsys.readouterr().err


def test_there_is_no_run_to_replay(tmp_path, capsys):
    assert track([str(tmp_path), "--to", "tensorboard"]) == 2
    assert "metrics.jsonl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_each_tracker_is_taken_once_and_wandb_has_a_flag_of_its_own():
    assert RunOptions().trackers == ("tensorboard",)
    assert RunOptions(track=("mlflow", "wandb", "mlflow"), wandb=True).trackers == ("mlflow", "wandb")
    assert RunOptions(track=(), wandb=True).trackers == ("wandb",)
    assert RunOptions(track=()).trackers == ()


def test_the_files_of_a_training_with_stable_baselines3_are_its_own(tmp_path):
    run = tmp_path / "runs" / "swarm_1"
    names = ["models/swarm_1.zip", "models/swarm_10.zip", "models/swarm_1-evaluation.json", "videos/swarm_1_end.gif",
             "videos/swarm_10_end.gif", "runs/swarm_1/config.yaml"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {label: path.name for label, path in files_of(run).items()}
    assert found == {"config": "config.yaml", "checkpoint": "swarm_1.zip", "evaluation": "swarm_1-evaluation.json",
                     "video/end": "swarm_1_end.gif"}  # fmt: skip


def test_a_run_from_before_there_were_trackers_can_be_resumed(tmp_path):
    save_config(tmp_path / "config.yaml", TINY)
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    (tmp_path / "config.yaml").write_text("\n".join(line for line in lines if not line.startswith(("track", "wandb"))))
    assert load_config(PPOConfig, tmp_path / "config.yaml", whole=True) == TINY
