"""Small worlds as Stable-Baselines3 sees them: robots are lanes of one vectorised environment."""

import gymnasium
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the sb3 extra is not installed")
pytest.importorskip("stable_baselines3", reason="the sb3 extra is not installed")
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from entropy_env.adapters.sb3 import SwarmVecEnv
from entropy_env.types import SwarmSpec

torch.set_num_threads(1)
MODES = ("respawn", "terminate", "next_goal")
WORLDS, AGENTS = 2, 3
LANES = WORLDS * AGENTS
VELOCITY, GOAL = map(SwarmSpec().slice, ("velocity", "goal"))
ON_POLICY = {"n_steps": 16, "batch_size": 32, "n_epochs": 2}
OFF_POLICY = {"buffer_size": 1000, "learning_starts": 24, "batch_size": 16, "train_freq": 4}


def make(**settings):
    """Two small worlds whose goals are near, and a time limit that comes soon."""
    return SwarmVecEnv(**({"num_worlds": WORLDS, "num_agents": AGENTS, "scenario": "curriculum"} | settings))


def begun(**settings):
    """Such worlds, and their first observations."""
    env = make(**({"max_steps": 25, "seed": 0} | settings))
    return env, env.reset()


def seek(obs):
    """Wheel speeds (lanes, 2) that lead to the goals, (lanes, obs_dim) observed."""
    ahead, left = obs[:, GOAL].T
    turn = np.clip(np.arctan2(left, ahead), -1, 1)
    return np.stack([1 - turn, 1 + turn], axis=1)


def roam(env, obs, steps):
    """What seeking robots are told, step by step."""
    transition = []
    for _ in range(steps):
        transition.append(env.step(seek(obs)))
        obs = transition[-1][0]
    return transition


def untimed(infos):
    """Infos without the seconds that have passed."""
    return [info | {"episode": {**info["episode"], "t": None}} if "episode" in info else info for info in infos]


def assert_same(one, other):
    """Equal bits in all that two steps told."""
    for a, b in zip(one[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(untimed(one[3]), untimed(other[3]), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], name)


def assert_same_course(env, twin, obs, steps=40):
    """Both are told the same from these observations on, across ends of episodes."""
    ends = 0
    for _ in range(steps):
        actions = seek(obs)
        one, other = env.step(actions), twin.step(actions)
        assert_same(one, other)
        obs, ends = one[0], ends + one[2].sum()
    assert ends


def small(algorithm, env, policy="MlpPolicy", **settings):
    """A model with a tiny network, seeded."""
    settings = (ON_POLICY if algorithm in (PPO, RecurrentPPO) else OFF_POLICY) | settings
    return algorithm(policy, env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()]).numpy()


def make_single(**settings):
    import entropy_env  # noqa: F401

    return gymnasium.make("entropy_env/Swarm-v0", max_steps=3, **settings)
