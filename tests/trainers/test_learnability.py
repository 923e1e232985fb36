"""Levels by how learnable they are: what is remembered, what is played again, what is counted, and that runs resume."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.commands import ROOT
from helpers.killed import TIMED, killed_at

from entropy_env import Swarm, SwarmSpec, vector
from entropy_env.scenarios.base import Purpose, Scenario, empty_layout, uniforms
from entropy_env.types import NO_KEY
from trainers.curriculum.learnability import LearnableWorlds, Levels, learnability
from trainers.jax_ppo import PPOConfig, make_ppo, train
from trainers.run.checkpoint import load_arrays

TINY = PPOConfig(
    num_envs=8, num_agents=2, num_steps=4, num_minibatches=2, hidden_sizes=(8,), total_steps=10 * 64,
    checkpoint_interval=64, learnable_share=0.5, learnable_levels=16, env_params={"max_steps": 6, "goal_radius": 2.5},
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Errands(Scenario):
    """Levels of which nearly half are impossible and half trivial. In one of ten, every second robot is at its goal."""

    name = "errands"

    def capacity(self, level, params):
        return 100

    def generate(self, key, spec, params):
        kind = uniforms(key, {Purpose.ARENA: (1,)})[Purpose.ARENA][0]
        agents = jnp.arange(spec.num_agents)
        arrives = (kind < 0.45) | ((kind < 0.55) & (agents % 2 == 0))
        places = jnp.stack([1 + 0.5 * agents, jnp.where(arrives, 8.0, 2.0)], axis=-1).astype(jnp.float32)
        goals = places.at[:, 1].set(8.0)
        shape = spec.num_agents, spec.num_goals
        layout = empty_layout(jnp.full(2, 10.0, jnp.float32), spec)
        return layout.replace(
            spawns=jnp.broadcast_to(jnp.pad(places, ((0, 0), (0, 1)))[:, None], (*shape, 3)),
            goals=jnp.broadcast_to(goals[:, None], (*shape, 2)),
        )


def test_learnability_is_highest_where_half_of_the_robots_arrive():
    arrived = jnp.array([[False] * 4, [True, False, False, False], [True, True, False, False], [True] * 4])
    assert learnability(arrived).tolist() == [0, 0.1875, 0.25, 0]


def remember(kept, level, score):
    """Note a level in a list of [level, score]: the obvious way."""
    for slot in kept:
        if slot[0] == level:
            slot[1] = score
            return
    lowest = min(kept, key=lambda slot: slot[1])
    if score > lowest[1]:
        lowest[:] = [level, score]


def test_the_most_learnable_levels_are_remembered():
    rng, worlds, size = np.random.default_rng(0), 6, 5
    levels, kept = Levels.none(size), [[(NO_KEY, NO_KEY), 0.0] for _ in range(size)]
    note = jax.jit(Levels.note_each)
    seen = set()
    for _ in range(200):
        which = rng.random(worlds) < 0.4
        keys = rng.integers(0, 4, (worlds, 2)).astype(np.uint32)
        scores = rng.choice(np.float32([0, 0.1, 0.2, 0.25, *rng.random(4) / 4]), worlds)
        levels = note(levels, which, keys, scores)
        for world in np.flatnonzero(which):
            remember(kept, tuple(keys[world].tolist()), scores[world])
        assert [tuple(key) for key in levels.keys.tolist()] == [level for level, _ in kept]
        np.testing.assert_array_equal(levels.scores, [score for _, score in kept])
        seen |= {level for level, _ in kept}
    assert len(seen) > 2 * size


def test_levels_are_drawn_in_proportion_to_their_scores():
    scores = np.array([0, 0.25, 0, 0.05, 0.2, 0], np.float32)
    keys = np.stack([np.arange(6), 10 + np.arange(6)], axis=1).astype(np.uint32)
    drawn = np.asarray(Levels(jnp.asarray(keys), jnp.asarray(scores)).draw(jax.random.key(1), 20_000))
    np.testing.assert_array_equal(drawn[:, 1], 10 + drawn[:, 0])
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=6) / 20_000, scores / scores.sum(), atol=0.01)


def test_a_level_with_a_score_of_0_is_never_drawn(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda *_: jnp.array([0, 0.5], jnp.float32))  # at the ends of its range
    keys = jnp.arange(8, dtype=jnp.uint32).reshape(4, 2)
    levels = Levels(keys, jnp.array([0, 0.25, 0, 0.25], jnp.float32))
    assert levels.draw(jax.random.key(0), 2).tolist() == [[2, 3], [6, 7]]


@functools.cache
def played(share, steps=600):
    """What was played in errands by robots that stand still."""
    env = Swarm(SwarmSpec(num_agents=4, on_goal="respawn"), Errands())
    worlds, params = LearnableWorlds(env, 64, share=share, num_levels=32), env.make_params(max_steps=16)

    def step(state, key):
        replayed = state.replayed, state.worlds.layout.key
        _, state, _, _, _, info = worlds.step(key, state, jnp.zeros((64, 4, 2)), params)
        told = {name: info[name] for name in ("over", "goals_reached", "counted")}
        return state, told | dict(zip(("replayed", "key"), replayed, strict=True))

    _, state = worlds.reset(jax.random.key(0), params)
    state, told = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(
        state, jax.random.split(jax.random.key(1), steps)
    )
    told = jax.device_get(told)
    over = told["over"]
    return jax.device_get(state), {name: value[over] for name, value in told.items()}


def test_levels_in_between_are_played_again_and_figures_are_of_new_ones():
    state, told = played(0.5)
    arrived = (told["goals_reached"] > 0).mean(axis=1)
    between = arrived == 0.5
    again = told["replayed"]
    assert len(arrived) == 64 * (600 // 16)
    assert {*arrived.tolist()} == {0, 0.5, 1}
    assert between[again].all(), "a level from which nothing can be learnt was played again"
    assert 0.4 < again[len(again) // 4 :].mean() < 0.6
    np.testing.assert_array_equal(told["counted"], np.broadcast_to(~again[:, None], told["counted"].shape))
    assert 0.05 < between[~again].mean() < 0.15
    assert 0.4 < arrived[~again].mean() < 0.6
    keys = [tuple(key) for key in told["key"].tolist()]
    assert {key for key, replay in zip(keys, again, strict=True) if replay} <= {
        key for key, replay in zip(keys, again, strict=True) if not replay
    }
    np.testing.assert_array_equal(state.learnability, np.where(between, 0.25, 0)[-64:])


def test_without_a_share_levels_are_those_of_other_worlds():
    state, told = played(0.0, steps=100)
    assert not told["replayed"].any()
    assert told["counted"].all()
    env = Swarm(SwarmSpec(num_agents=4, on_goal="respawn"), Errands())
    worlds, params = vector.batch(env, 64), env.make_params(max_steps=16)
    _, plain = worlds.reset(jax.random.key(0), params)
    step = jax.jit(worlds.step)
    for key in jax.random.split(jax.random.key(1), 100):
        _, plain, *_ = step(key, plain, jnp.zeros((64, 4, 2)), params)
    for name in vars(plain):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(plain, name))


def test_a_level_played_again_is_the_same():
    env = Swarm(SwarmSpec(num_agents=4), "rooms")
    worlds = LearnableWorlds(env, 8, share=1.0, num_levels=1)
    params = env.make_params(max_steps=2)
    _, state = jax.jit(worlds.reset)(jax.random.key(0), params)
    wanted = jax.jit(env.generate)(jax.random.key(7), params)
    levels = Levels(wanted.key[None], jnp.array([0.25], jnp.float32))
    step = jax.jit(worlds.step)
    state = state.replace(levels=levels)
    assert not state.replayed.any()
    for key in jax.random.split(jax.random.key(1), 12):
        _, state, *_ = step(key, state.replace(levels=levels), jnp.zeros((8, 4, 2)), params)
    assert state.replayed.all()
    for world in range(8):
        mine = jax.tree.map(lambda leaf: leaf[world], state.worlds.layout)  # noqa: B023
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), mine, wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learnable_share": -0.1}, "learnable_share=-0.1 must be at least 0 and below 1"),
        ({"learnable_share": 1.0}, "learnable_share=1.0 must be at least 0 and below 1"),
        ({"learnable_share": float("nan")}, "learnable_share=nan must be finite"),
        ({"learnable_levels": 0}, "learnable_levels=0 must be above 0"),
        ({"curriculum": "default"}, "learnable_share=0.5 cannot be combined with curriculum='default'"),
        ({"num_agents": 1}, "learnable_share=0.5 needs 2 robots or more, not num_agents=1"),
    ],
)
def test_options_that_cannot_be_had_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **options)


def test_a_world_without_an_end_is_an_error():
    with pytest.raises(ValueError, match="max_steps='never' has no end"):
        make_ppo(dataclasses.replace(TINY, env_params={"max_steps": "never"}))


def test_without_the_option_worlds_are_plain():
    assert type(make_ppo(dataclasses.replace(TINY, learnable_share=0.0))[0].env) is vector.VectorSwarm


@pytest.mark.parametrize("critic", ["central", "privileged"])
def test_a_critic_sees_more_here_too(critic):
    ppo, inputs, _ = make_ppo(dataclasses.replace(TINY, critic=critic))
    state = jax.eval_shape(ppo.init, jax.random.key(0), inputs)
    after, metrics = jax.eval_shape(ppo.update, state, inputs)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert "env/goal_reached_rate" in metrics


def lines(run):
    text = (run / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in text.splitlines()]


def newest(run):
    return load_arrays(max((run / "checkpoints").glob("*.safetensors")))[0]


@pytest.mark.slow
def test_a_run_tells_how_learnable_its_levels_are_and_resumes_exactly(tmp_path):
    config = dataclasses.replace(TINY, run_dir=tmp_path / "whole", total_steps=20 * 64)
    train(config)
    told = lines(config.run_dir)
    assert all(0 <= line["env/learnability"] <= 0.25 for line in told[3:])
    assert max(line["env/replayed_share"] for line in told) > 0.2
    assert all("env/layout_reuses" in line for line in told)
    parts = dataclasses.replace(config, run_dir=tmp_path / "parts")
    with killed_at(11 * 64):
        train(parts)
    train(dataclasses.replace(parts, resume=True))
    assert lines(parts.run_dir) == told
    arrays, expected = newest(parts.run_dir), newest(config.run_dir)
    assert arrays.keys() == expected.keys()
    for name in expected.keys() - {"key"}:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    with pytest.raises(ValueError, match=r"learnable_levels=8 is not what .* was begun with, 16"):
        train(dataclasses.replace(parts, resume=True, learnable_levels=8))


@pytest.mark.slow
def test_each_device_has_its_own_levels(tmp_path):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT)}
    flags = ["--learnable-share", 0.5, "--learnable-levels", 16, "--devices", 2, "--num-envs", 8, "--num-agents", 2,
             "--num-steps", 4, "--num-minibatches", 2, "--hidden-sizes", 8, "--env-params", "max_steps", 6, "goal_radius", 2.5,
             "--total-steps", 10 * 64, "--run-dir", tmp_path]  # fmt: skip
    command = [sys.executable, "-m", "trainers.jax_ppo", *map(str, flags)]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found = newest(tmp_path)
    keys, scores = found["env_state/levels/keys"], found["env_state/levels/scores"]
    assert scores.shape == (2, 16)
    assert (scores.max(axis=1) > 0).all()
    known = [{*map(tuple, one.tolist())} - {(NO_KEY, NO_KEY)} for one in keys]
    assert not known[0] & known[1]
    assert lines(tmp_path)[-1]["env/replayed_share"] <= 1
