"""A loaded policy takes what its environment observes, and returns actions within the environment's own bounds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from trainers import train_policy
from trainers.policies import load_policy
from trainers.policies.own_spaces import OwnSpaces, described

HOSTED = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
TINY: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "num_minibatches": 2, "hidden_sizes": (8,), "episodes": 0}
OBSERVATIONS = {
    "discrete": spaces.Discrete(5, start=2),
    "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "several": spaces.MultiDiscrete([3, 4]),
    "nested": spaces.Dict(
        {"z": spaces.Box(-1, 1, (2,)), "a": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2)))}
    ),
}


class Seen(gymnasium.Env):
    """Five steps, in which the reward is the first number of the action, which has bounds of its own."""

    action_space = spaces.Box(np.float32([0, 1]), np.float32([10, 20]))

    def __init__(self, observation_space: spaces.Space) -> None:
        self.observation_space = observation_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        self.clock = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple:
        self.clock += 1
        return self.observation_space.sample(), float(action[0]), False, self.clock == 5, {}


@HOSTED
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_policy_acts_in_the_spaces_of_an_environment_of_gymnasium(kind: str, tmp_path: Path) -> None:
    env = Seen(OBSERVATIONS[kind])
    run = train_policy(lambda: Seen(OBSERVATIONS[kind]), total_steps=64, num_iterations=None, run_dir=tmp_path / "run",
                       **TINY | {"episodes": 8})  # fmt: skip
    policy = load_policy(run)
    obs = env.reset(seed=0)[0]
    action = policy(obs)
    assert env.action_space.contains(action)
    flat = np.float32(spaces.flatten(env.observation_space, obs))
    raw, _ = policy.act(jnp.asarray(flat[None]), ())
    np.testing.assert_allclose(action, [0, 1] + (np.asarray(raw[0]) + 1) / 2 * [10, 19], rtol=1e-5)
    np.testing.assert_allclose(policy(flat[None])[0], action, rtol=1e-6)
    evaluation = json.loads((run / "evaluation.json").read_text())
    earned = evaluation["deterministic"]["return"]["mean"]
    assert earned == pytest.approx(5 * action[0], rel=0.5), "evaluated within the same bounds"


def test_a_policy_acts_in_the_bounds_of_an_environment_of_gymnax(tmp_path: Path) -> None:
    pytest.importorskip("gymnax", reason="needs the extra gymnax")
    run = train_policy("gymnax:Pendulum-v1", total_steps=64, num_iterations=None, run_dir=tmp_path / "run", **TINY)
    policy = load_policy(run)
    obs = jnp.asarray([0.5, 0.5, 8.0])
    raw, _ = policy.act(obs[None], ())
    action = policy(obs)
    assert isinstance(action, jax.Array)
    np.testing.assert_allclose(action, 2 * raw[0], rtol=1e-6)


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_observations_are_flat_as_gymnasium_makes_them_also_after_json(kind: str) -> None:
    space = OBSERVATIONS[kind]
    values = {"low": [], "high": [], "observation": json.loads(json.dumps(described(space)))}
    own = OwnSpaces.load(values)
    obs = space.sample()
    np.testing.assert_array_equal(own.flatten(obs, spaces.flatdim(space)), spaces.flatten(space, obs))


def test_an_observation_that_does_not_fit_is_told_how_to_be_made_flat() -> None:
    for own in (OwnSpaces(), OwnSpaces(observation=described(OBSERVATIONS["image"]))):
        for obs in ({"z": 1}, np.zeros((4, 4, 3)), 3):
            with pytest.raises(ValueError, match=r"gymnasium\.spaces\.flatten\(env\.observation_space, obs\)"):
                own.flatten(obs, 192)
