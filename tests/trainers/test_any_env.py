"""Training in environments that are no swarm: natively, and through Stable-Baselines3."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.guess import Guess

from entropy_env import Swarm, SwarmSpec, swarm_v0, vector
from trainers import train_policy
from trainers.any_env import AnyEnvConfig, main
from trainers.envs.views import Privileged
from trainers.evaluate import evaluate
from trainers.policies import load_policy
from trainers.run.checkpoint import CheckpointError
from trainers.run.hooks import Moment

HOSTED = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
TINY: dict[str, Any] = {"num_envs": 8, "num_steps": 16, "num_minibatches": 2, "hidden_sizes": (16,), "episodes": 32}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_functional_environment_is_learnt_natively(tmp_path: Path) -> None:
    steps = []

    def watch(moment: Moment) -> None:
        steps.append(moment.step)
        moment.metrics["mine/x"] = 1.0

    run = train_policy(Guess, num_iterations=4, hooks=[watch], run_dir=tmp_path / "run", learning_rate=1e-2, **TINY)
    assert steps == [128 * update for update in range(1, 65)], "an iteration is 2,048 steps of an environment"
    assert lines(run)[-1]["mine/x"] == 1.0
    assert "env/goal_reached_rate" not in lines(run)[-1]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["deterministic"]["return"]["mean"] == 1.0 == evaluation["episode_length"]["mean"]
    policy = load_policy(run)
    np.testing.assert_array_equal(policy(np.eye(3)), [0, 1, 2])
    with pytest.raises(ValueError, match="no swarm"):
        evaluate(run)


def test_a_run_stopped_by_a_hook_goes_on(tmp_path: Path) -> None:
    options = TINY | {"run_dir": tmp_path / "run", "episodes": 0}
    train_policy(Guess, num_iterations=1, hooks=[lambda moment: moment.stop("enough")], **options)
    assert len(lines(tmp_path / "run")) == 1
    train_policy(Guess, num_iterations=1, resume=True, **options)
    assert [line["step"] for line in lines(tmp_path / "run")] == [128 * update for update in range(1, 17)]


class Wide(Guess):
    """Shows one number more."""

    def look(self, shown: Any) -> Any:
        return jnp.pad(super().look(shown), ((0, 0), (0, 0), (0, 1)))


def test_a_run_does_not_go_on_with_observations_of_another_size(tmp_path: Path) -> None:
    options, made = TINY | {"run_dir": tmp_path / "run", "episodes": 0}, [Wide(), Guess()]
    train_policy(made.pop, num_iterations=1, hooks=[lambda moment: moment.stop("enough")], **options)
    with pytest.raises(CheckpointError, match=r"'moments/mean' was saved as float32\[3\], expected float32\[4\]"):
        train_policy(made.pop, num_iterations=1, resume=True, **options)


def test_an_iteration_of_a_swarm_counts_its_worlds_and_not_its_robots(tmp_path: Path) -> None:
    swarm = Swarm(SwarmSpec(num_agents=2, on_goal="respawn"))
    run = train_policy(
        lambda: swarm, num_iterations=1, run_dir=tmp_path / "run", **TINY | {"episodes": 0, "num_steps": 256}
    )
    assert [line["step"] for line in lines(run)] == [2 * 2048]
    assert "env/goal_reached_rate" in lines(run)[-1]


class Line(gymnasium.Env):
    """Ten steps, in which the reward is how near the action is to a place that is shown."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-4, 4, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        self.clock, self.place = 0, self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.place, {}

    def step(self, action: np.ndarray) -> tuple:
        self.clock += 1
        reward = -float(np.abs(action[0] / 4 - self.place[0]))
        return self.place, reward, False, self.clock == 10, {}


@HOSTED
@pytest.mark.parametrize("shared_trunk", [False, True])
def test_an_environment_of_gymnasium_is_learnt_through_sb3(shared_trunk: bool, tmp_path: Path) -> None:
    seen: list[int] = []
    options = TINY | {
        "learning_rate": 3e-3,
        "gamma": 0.5,
        "shared_trunk": shared_trunk,
        "num_epochs": 8,
        "anneal_learning_rate": False,
    }
    run = train_policy(
        Line, num_iterations=4, hooks=[lambda moment: seen.append(moment.step)], run_dir=tmp_path / "run", **options
    )
    assert seen == [128 * update for update in range(1, 65)]
    figures = lines(run)
    assert {"train/episode_return", "train/fps", "loss/policy", "loss/entropy"} <= figures[-1].keys()
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["deterministic"]["return"]["mean"] > -1.0, "always 0 would earn -5"
    assert evaluation["episode_length"]["mean"] == 10.0
    assert load_policy(run).spec.hidden_sizes == (16,)


@HOSTED
def test_the_saved_actor_acts_as_that_of_sb3(tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    for name, env in (("line", Line), ("cart", lambda: gymnasium.make("CartPole-v1"))):
        run = train_policy(
            env, num_iterations=1, run_dir=tmp_path / name, **TINY | {"episodes": 0, "normalize_obs": False}
        )
        model, policy = PPO.load(run / "model.zip", device="cpu"), load_policy(run)
        obs = np.random.default_rng(0).normal(size=(50, policy.obs_dim)).astype(np.float32)
        np.testing.assert_allclose(
            policy(obs), policy.own.stretch(model.predict(obs, deterministic=True)[0]), atol=1e-5
        )


@HOSTED
def test_robots_of_pettingzoo_are_lanes_of_sb3(tmp_path: Path) -> None:
    options = TINY | {"num_envs": 2, "num_steps": 1024, "num_epochs": 1, "episodes": 8}
    run = train_policy(
        lambda: swarm_v0.parallel_env(3, max_steps=20), num_iterations=1, run_dir=tmp_path / "run", **options
    )
    assert [line["step"] for line in lines(run)] == [3 * 2048]
    assert json.loads((run / "evaluation.json").read_text())["episode_length"]["mean"] <= 20


@HOSTED
def test_a_hook_stops_or_fails_a_run_of_sb3_and_the_run_is_saved(tmp_path: Path, capsys: Any) -> None:
    def fail(moment: Moment) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        train_policy(Line, num_iterations=1, hooks=[fail], run_dir=tmp_path / "failed", **TINY)
    assert load_policy(tmp_path / "failed").step == 128
    run = train_policy(Line, num_iterations=1, hooks=[lambda m: m.stop("enough")], run_dir=tmp_path / "run", **TINY)
    assert load_policy(run).step == 128
    assert "stopped: enough" in capsys.readouterr().out


class Odd(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.MultiBinary(3)


class Boundless(Odd):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))


def shows_more() -> Any:
    env = Swarm(SwarmSpec(num_agents=2, geodesic=True))
    return vector.batch(env, 8, critic=Privileged(env))


class NoEnv:
    """Has nothing."""


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        pytest.param(Odd, {}, ["MultiBinary(3)", "Discrete"], marks=HOSTED),
        pytest.param(Boundless, {}, ["inf", "finite bounds"], marks=HOSTED),
        pytest.param(Line, {"precision": "bf16"}, ["precision='bf16'", "functional"], marks=HOSTED),
        pytest.param(Line, {"resume": True}, ["cannot be resumed"], marks=HOSTED),
        pytest.param(Line, {"critic": "central"}, ["critic='central'", "functional"], marks=HOSTED),
        (Guess, {"critic": "central"}, ["critic='central'", "critic_input", "Guess has none"]),
        (Swarm, {"critic": "privileged"}, ["SwarmSpec(geodesic=True)"]),
        (shows_more, {"critic": "central"}, ["critic='central'", "Privileged"]),
        (NoEnv, {}, ["NoEnv", "reset", "gymnax"]),
        (lambda: Guess(breaks="reward"), {}, ["reward", "float32[8]"]),
        (Guess, {"algorithm": "sac"}, ["'sac'", "ppo"]),
        (Guess, {"preset": "v4"}, ["'v4'", "v3", "cartpole"]),
        (Guess, {"num_minibatches": 3}, ["num_envs=8", "num_minibatches=3"]),
        (Guess, {"learning_rat": 3}, ["'learning_rat'", "learning_rate"]),
        (Guess, {"num_iterations": 0}, ["num_iterations=0"]),
        ("CartPole-v1", {}, ["'CartPole-v1'", "gymnax:NAME"]),
        ("gymnasium:CartPole-v9", {}, ["CartPole-v9"]),
        ("no_such_module:make", {}, ["no_such_module"]),
    ],
)
def test_what_cannot_be_trained_is_named(
    factory: Any, options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:
        train_policy(factory, **{"run_dir": tmp_path / "run", **TINY, **options})
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "run").exists()


def test_the_command_trains_and_resumes_what_an_import_path_names(tmp_path: Path) -> None:
    flags = ["--env", "helpers.guess:Guess", "--num-envs", "8", "--num-steps", "16", "--num-minibatches", "2",
             "--hidden-sizes", "8", "--run-dir", str(tmp_path / "run"), "--episodes", "4"]  # fmt: skip
    assert main([*flags, "--total-steps", "128"]) == 0
    assert main(["--resume", "--run-dir", str(tmp_path / "run"), "--total-steps", "256"]) == 0
    assert [line["step"] for line in lines(tmp_path / "run")] == [128, 256]
    assert main(["--env", "nothing", "--run-dir", str(tmp_path / "other")]) == 2


def test_a_preset_is_where_settings_start(tmp_path: Path) -> None:
    assert AnyEnvConfig(preset="cartpole").gamma == 0.98
    assert AnyEnvConfig(preset="v3", num_steps=128).hidden_sizes == (256, 256)
    assert AnyEnvConfig(preset="v3", num_steps=128).num_steps == 128
