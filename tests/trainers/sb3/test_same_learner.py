"""PPO here against that of Stable-Baselines3: the same worlds, hyperparameters and number of steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from entropy_env.adapters.sb3 import SwarmVecEnv
from trainers.evaluate import evaluate_policy
from trainers.jax_ppo import PPOConfig, train
from trainers.policies import load_policy
from trainers.policies.jax import ActorPolicy, ActorSpec
from trainers.sb3.any_env import actor_params, make_model, moments_of

CONFIG = PPOConfig(num_envs=32, num_agents=8, total_steps=800_000)


def ours(config: PPOConfig, folder: Path) -> ActorPolicy:
    return load_policy(train(dataclasses.replace(config, run_dir=folder / str(config.seed))))


def theirs(config: PPOConfig) -> ActorPolicy:
    worlds = SwarmVecEnv(config.num_envs, config.num_agents, config.scenario, seed=config.seed)
    model = make_model(worlds, config).learn(config.total_steps)
    spec = ActorSpec(worlds.observation_space.shape[0], 2, hidden_sizes=config.hidden_sizes)
    return ActorPolicy(actor_params(model), moments_of(model), spec)


def success(policy: ActorPolicy) -> float:
    return evaluate_policy(policy, *CONFIG.task.make(on_goal="terminate"), 64, 0)["success"]["mean"]


@pytest.mark.slow
def test_as_many_robots_arrive_after_as_many_steps(tmp_path: Path) -> None:
    seeds = [dataclasses.replace(CONFIG, seed=seed) for seed in range(3)]
    here, there = [success(ours(c, tmp_path)) for c in seeds], [success(theirs(c)) for c in seeds]
    assert min(here + there) > 0.9, (here, there)
    assert abs(np.mean(here) - np.mean(there)) <= 0.03, (here, there)
