"""Evaluation, the best checkpoint, targets and what a run keeps, in any environment, trained either way."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers.guess import Guess

from entropy_env import Swarm, SwarmSpec
from trainers import train_policy
from trainers.policies import load_policy

HOSTED = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
TINY: dict[str, Any] = {"num_envs": 8, "num_steps": 16, "num_minibatches": 2, "hidden_sizes": (16,), "episodes": 0}
UPDATE = 128  # environment steps


class GuessOnce(gymnasium.Env):
    """`Guess` as an environment of Gymnasium. `endless` ones never end."""

    observation_space = gymnasium.spaces.Box(0, 1, (3,))
    action_space = gymnasium.spaces.Discrete(3)
    endless = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        self.shown = self.np_random.integers(3)
        return np.eye(3, dtype=np.float32)[self.shown], {}

    def step(self, action: int) -> tuple:
        return np.eye(3, dtype=np.float32)[self.shown], float(action == self.shown), not self.endless, False, {}


EACH = [pytest.param(Guess, id="native"), pytest.param(GuessOnce, id="hosted", marks=HOSTED)]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("factory", EACH)
def test_a_run_evaluates_and_keeps_its_best_checkpoint(factory: Any, tmp_path: Path) -> None:
    options = TINY | {"eval_interval": 2 * UPDATE, "eval_episodes": 12, "learning_rate": 1e-2}
    run = train_policy(factory, num_iterations=1, run_dir=tmp_path / "run", **options)
    scores = {line["step"]: line["eval/return"] for line in lines(run) if "eval/return" in line}
    assert [*scores] == [2 * UPDATE * number for number in range(1, 9)]
    assert all(line["eval/episode_length"] == 1 for line in lines(run) if "eval/return" in line)
    assert load_policy(run, best=True).step == max(scores, key=lambda step: scores[step])
    assert load_policy(run).step == 16 * UPDATE


@pytest.mark.parametrize("factory", EACH)
@pytest.mark.parametrize(
    ("options", "why", "step"),
    [
        ({"target_return": 0.0}, "the target return 0 is reached", UPDATE),
        ({"eval_interval": UPDATE, "eval_episodes": 50, "early_stop": 2, "learning_rate": 1e-30, "normalize_obs": False},
         "2 evaluations without a better one", 3 * UPDATE),
    ],
)  # fmt: skip
def test_a_run_stops_where_its_options_say(
    factory: Any, options: dict[str, Any], why: str, step: int, tmp_path: Path
) -> None:
    run = train_policy(factory, num_iterations=1, run_dir=tmp_path / "run", **TINY, **options)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["step"] == step == lines(run)[-1]["step"] == load_policy(run).step
    assert summary["stopped"].startswith(why)
    assert json.loads((run / "run.json").read_text())["converged"]
    scores = {line["eval/return"] for line in lines(run) if "eval/return" in line}
    assert len(scores) == (1 if "eval_interval" in options else 0), "each evaluation plays the same episodes"


@pytest.mark.parametrize("factory", EACH)
def test_options_of_the_run_folder_hold(factory: Any, tmp_path: Path, capsys: Any) -> None:
    options = TINY | {"checkpoint_interval": UPDATE, "keep_checkpoints": 2, "verbose": True}

    def keep(moment: Any) -> None:
        if moment.step == 2 * UPDATE:
            moment.keep_as("second")

    run = train_policy(
        factory, num_iterations=None, total_steps=4 * UPDATE, hooks=[keep], run_dir=tmp_path / "run", **options
    )
    checkpoints = sorted(
        path.relative_to(run / "checkpoints").as_posix() for path in run.glob("checkpoints/**/*.safe*")
    )
    assert checkpoints == [
        "second/step_000000000256.safetensors",
        "step_000000000384.safetensors",
        "step_000000000512.safetensors",
    ]
    assert sum(line.startswith("step ") for line in capsys.readouterr().out.splitlines()) == 4
    assert {"train/episode_return", "train/fps", "train/sps"} <= lines(run)[-1].keys()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["step"], summary["stopped"], summary["interrupted"]) == (4 * UPDATE, None, False)


@HOSTED
def test_an_interrupted_run_of_sb3_is_saved_and_says_so(tmp_path: Path) -> None:
    def press(moment: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_policy(GuessOnce, num_iterations=1, hooks=[press], run_dir=tmp_path / "run", **TINY)
    assert load_policy(tmp_path / "run").step == UPDATE
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["interrupted"]


@HOSTED
def test_a_tracker_that_is_not_installed_leaves_nothing_of_a_run_of_sb3(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"entropy-env\[mlflow\]"):
        train_policy(GuessOnce, num_iterations=1, run_dir=tmp_path / "run", track=("mlflow",), **TINY)
    assert not (tmp_path / "run").exists()


@HOSTED
def test_episodes_without_an_end_are_an_error_and_no_endless_wait(tmp_path: Path, monkeypatch: Any) -> None:
    from trainers.sb3 import any_env

    class Endless(GuessOnce):
        endless = True

    monkeypatch.setattr(any_env, "LONGEST", 40)
    with pytest.raises(ValueError, match="4 of 4 episodes had no end"):
        train_policy(Endless, num_iterations=1, run_dir=tmp_path / "run", **TINY | {"episodes": 4})


@HOSTED
def test_the_saved_actor_makes_several_choices_as_that_of_sb3(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    class Several(GuessOnce):
        action_space = gymnasium.spaces.MultiDiscrete([3, 2])

        def step(self, action: Any) -> tuple:
            return super().step(action[0])

    run = train_policy(Several, num_iterations=1, run_dir=tmp_path / "run", **TINY | {"normalize_obs": False})
    model, policy = PPO.load(run / "model.zip", device="cpu"), load_policy(run)
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_array_equal(policy(obs), model.predict(obs, deterministic=True)[0])


def test_episodes_of_a_swarm_are_evaluated_in_full_length(tmp_path: Path) -> None:
    swarm = Swarm(SwarmSpec(num_agents=2, on_goal="respawn"))
    lame = swarm.make_params(max_steps=20, max_wheel_speed=1e-6)
    run = train_policy(
        lambda: (swarm, lame), num_iterations=None, total_steps=256, run_dir=tmp_path / "run", **TINY | {"episodes": 16}
    )
    assert json.loads((run / "evaluation.json").read_text())["episode_length"]["mean"] == 20.0
