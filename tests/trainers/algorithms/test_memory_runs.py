"""Runs of policies that remember, or have a network for each agent: what is saved, resumed, loaded, played and filmed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.killed import killed_at

from entropy_env.observations import NEAREST
from entropy_env.vector import VectorSwarm
from trainers.curriculum.worlds import StagedWorlds
from trainers.evaluate import evaluate, make_env
from trainers.evaluation.play import film
from trainers.jax_ppo import PPOConfig, main, make_ppo, train
from trainers.policies import load_policy
from trainers.run.checkpoint import load_arrays

UPDATE, KEY = 4 * 2 * 4, jax.random.key(0)
TINY = PPOConfig(
    num_envs=4, num_agents=2, num_steps=4, num_minibatches=2, hidden_sizes=(8,), cell_size=8, total_steps=4 * UPDATE,
    anneal_learning_rate=False, env_params={"max_steps": 6},
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "gru": {"network": "gru", "shared_trunk": True, "sequence_length": 2},
    "lstm independent": {"network": "lstm", "sharing": "independent", "head_sizes": (8,), "on_goal": "terminate"},
    "mlp central": {"critic": "central", "normalize_value": True, "action_distribution": "tanh", "deviation": "state"},
    "gru privileged": {"network": "gru", "critic": "privileged", "layer_norm": True},
}


def newest(run: Path) -> dict[str, Any]:
    return load_arrays(max((run / "checkpoints").glob("*.safetensors")))[0]


@pytest.fixture(
    scope="module",
    params=["gru", *(pytest.param(name, marks=pytest.mark.slow) for name in list(KINDS)[1:])],
)
def run(request: Any, tmp_path_factory: Any) -> tuple[Path, PPOConfig]:
    path = tmp_path_factory.mktemp("run") / "whole"
    config = dataclasses.replace(TINY, **KINDS[request.param], run_dir=path)
    train(config)
    return path, config


def test_a_run_that_was_killed_goes_on_in_the_same_arrays(run: tuple[Path, PPOConfig], tmp_path: Path) -> None:
    whole, config = run
    parts = dataclasses.replace(config, run_dir=tmp_path / "parts", checkpoint_interval=2 * UPDATE)
    with killed_at(3 * UPDATE):
        train(parts)
    train(dataclasses.replace(parts, resume=True))
    expected, arrays = newest(whole), newest(tmp_path / "parts")
    assert expected.keys() == arrays.keys()
    assert any(name.startswith("memory/") for name in arrays) == (config.network != "mlp")
    for name, array in expected.items():
        keys = jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
        pair = [jax.random.key_data(x) if keys else x for x in (array, arrays[name])]
        np.testing.assert_array_equal(*pair, err_msg=name)


def test_a_loaded_policy_acts_and_remembers_as_the_learner(run: tuple[Path, PPOConfig]) -> None:
    path, config = run
    ppo, inputs, _ = make_ppo(config)
    runner = ppo.init(jax.random.key(0), inputs)
    arrays = newest(path)
    names = jax.tree_util.tree_flatten_with_path(runner.params)[0]
    leaves = [arrays["params/" + jax.tree_util.keystr(name, simple=True, separator="/")] for name, _ in names]
    moments = runner.moments.replace(**{name: jnp.asarray(arrays[f"moments/{name}"]) for name in vars(runner.moments)})
    runner = runner.replace(params=jax.tree.unflatten(jax.tree.structure(runner.params), leaves), moments=moments)
    policy = load_policy(path)
    memory, own = policy.begin(config.num_agents), ppo.networks.begin((config.num_agents,))
    for t in range(3):
        obs = jax.random.normal(jax.random.key(t), (config.num_agents, policy.obs_dim))
        action, memory = policy.act(obs, memory, jax.random.key(9))
        choice = ppo.act(runner, jax.random.key(9), obs, own)
        own = choice.memory
        np.testing.assert_allclose(action, jnp.clip(choice.executed, -1, 1), atol=1e-6)
        for a, b in zip(jax.tree.leaves(memory), jax.tree.leaves(own[0]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_evaluation_and_film_play_it(run: tuple[Path, PPOConfig]) -> None:
    path, config = run
    assert evaluate(path, episodes=4)["episodes"] == 4
    policy = load_policy(path)
    env, params = make_env(policy)
    assert 1 < len(film(policy, env, params, KEY, sampled=False)) <= 7
    if config.sharing == "independent":
        other, three = make_env(policy, num_agents=3), r"each of 2 agents \(sharing=independent\), and there are 3"
        for play in (lambda: evaluate(path, episodes=4, num_agents=3), lambda: film(policy, *other, KEY, sampled=True)):
            with pytest.raises(ValueError, match=three):
                play()
    else:
        evaluate(path, episodes=2, num_agents=3)
    if config.network != "mlp":
        with pytest.raises(ValueError, match=r"this policy remembers: call memory = policy\.begin"):
            policy(np.zeros((2, policy.obs_dim)))


def test_a_run_goes_on_with_its_own_network_and_robots_alone(run: tuple[Path, PPOConfig], capsys: Any) -> None:
    path, config = run
    flags = ["--resume", "--run-dir", str(path), "--total-steps", "999999"]
    for name, other in {"network": "lstm" if config.network == "gru" else "gru", "num_agents": 3}.items():
        assert main([*flags, f"--{name.replace('_', '-')}", str(other)]) == 2
        told = f"{name}={other!r} is not what {path} was begun with, {getattr(config, name)!r}"
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("curriculum", [None, "default"])
@pytest.mark.parametrize("critic", ["central", "privileged"])
def test_the_worlds_are_as_the_options_say(critic: Any, curriculum: str | None) -> None:
    config = dataclasses.replace(TINY, critic=critic, on_goal="terminate", curriculum=curriculum, env_params={})
    ppo, inputs, _ = make_ppo(config)
    worlds = ppo.env.worlds if isinstance(ppo.env, StagedWorlds) else ppo.env
    assert isinstance(worlds, VectorSwarm)
    assert worlds.env.spec.on_goal == "terminate"
    moments = jax.eval_shape(ppo.init, KEY, inputs).critic_moments
    assert moments is not None
    assert moments.mean.shape == ({"central": worlds.env.spec.state_dim + 1, "privileged": 4 + 4 * NEAREST}[critic],)
