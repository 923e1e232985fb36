"""Robots that follow a rule and solve `relay` and `lookout` by words alone, and do not without them.

    python examples/talk.py
    python examples/talk.py --scenario lookout --num-worlds 32 --out lookout.gif

In `relay` everybody sees its partner's goal, so it says where the partner is and where the goal is. In `lookout` scouts say
which corridor is open. With --out one world is filmed.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from entropy_env import Swarm, SwarmSpec
from entropy_env.render import Renderer
from entropy_env.render.video import write_video
from entropy_env.types import HEARD, TOKENS, SwarmParams, SwarmState
from entropy_env.vocabulary import Word

WIDE = 0.14  # m, half the width of the way that a robot looks for: it needs 0.1 m
LOOK = 0.4  # m, how far ahead of it the way should be free
MOUTH = 0.2  # m from the end of a corridor, where a robot is through
GUESS = np.array([[-2.5, 1.5], [-1.5, -2.5]])  # m, from a goal to the far mouth on the left: back, and to the left
NEAR = 0.05  # m from its place, where a robot waits


def speak(env: Swarm, obs: jax.Array, state: SwarmState, params: SwarmParams) -> jax.Array:
    """Return what everybody says, (N, 36): the scores of the tokens and the payload."""
    if env.spec.paired:
        told = jnp.concatenate([obs[:, env.spec.slice("partner")], obs[:, env.spec.slice("goal")]], axis=1)
        token = jnp.full(len(obs), Word.FOUND_TARGET)
    else:
        token, told = env.scenario.truth(
            state, params, env.spec
        )  # instead of a rule that finds mouths in a scout's lidar
    scores = jnp.where(jnp.arange(TOKENS) == token[:, None], 1.0, -1.0)
    return jnp.concatenate([scores, told], axis=1)


def listen(env: Swarm, obs: jax.Array, params: SwarmParams) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return where each word says that it is meant for, and where the target is, (N, K, 2) m in the listener's frame.

    Also returns which slots have a word, (N, K) bool.
    """
    offset, heading, token, who, where = jnp.split(
        obs[:, env.spec.slice("inbox")].reshape(len(obs), -1, HEARD), (2, 4, 5, 7), axis=2
    )

    def place(told: jax.Array) -> jax.Array:
        (cos, sin), (x, y) = jnp.moveaxis(heading, 2, 0), jnp.moveaxis(told * params.goal_scale, 2, 0)
        return offset * params.comm_range + jnp.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)

    return place(who), place(where), token[..., 0] > 0


def choose_place(env: Swarm, obs: jax.Array, params: SwarmParams) -> jax.Array:
    """Return where everybody wants to be next, (N, 2) m in its own frame. Without a word, robots in pairs stay."""
    who, where, heard = listen(env, obs, params)
    nearest = jnp.argmin(jnp.where(heard, jnp.linalg.norm(who, axis=-1), jnp.inf), axis=1)
    told = jnp.take_along_axis(where, nearest[:, None, None], axis=1)[:, 0]
    hears = jnp.any(heard, axis=1, keepdims=True)
    if env.spec.paired:
        return jnp.where(hears, told, 0.0)
    scout, goal = obs[:, env.spec.slice("role")] > 0, obs[:, env.spec.slice("goal")] * params.goal_scale
    onward = goal / jnp.maximum(jnp.linalg.norm(goal, axis=1, keepdims=True), 1e-6)
    left = goal + onward @ GUESS  # about where the left corridor ends
    mouth = jnp.where(hears, told, left)
    passed = (jnp.sum((goal - mouth) * mouth, axis=1) < 0) | (jnp.linalg.norm(mouth, axis=1) < MOUTH)
    return jnp.where(scout, 0.0, jnp.where(passed[:, None], goal, mouth))


def steer(env: Swarm, obs: jax.Array, place: jax.Array, params: SwarmParams) -> jax.Array:
    """Return motors (N, 2) that drive along the ray which leads best to the place, among those that are free."""
    reading = obs[:, env.spec.slice("lidar")]
    angle = 2 * jnp.pi * jnp.arange(env.spec.num_rays) / env.spec.num_rays
    between = angle[:, None] - angle[None]  # of a way and a ray
    end = params.agent_radius + reading * params.lidar_range  # m
    blocked = (jnp.abs(end[:, None] * jnp.sin(between)) < WIDE) & (jnp.cos(between) > 0) & (reading < 1)[:, None]
    free = jnp.min(jnp.where(blocked, end[:, None] * jnp.cos(between), jnp.inf), axis=2)  # m, along each ray
    distance, bearing = jnp.linalg.norm(place, axis=1), jnp.arctan2(place[:, 1], place[:, 0])
    enough = jnp.minimum(LOOK, distance + params.agent_radius)[:, None]
    better = jnp.cos(angle - bearing[:, None]) + jnp.where(free >= enough, 2.0, free / enough)
    best = jnp.argmax(better, axis=1)
    turn = wrap(jnp.where(jnp.abs(wrap(bearing - angle[best])) < angle[1] / 2, bearing, angle[best]))
    drive = jnp.maximum(jnp.cos(turn), 0.0) ** 4 * jnp.clip(distance / 0.2, 0.0, 1.0)
    motors = jnp.stack([drive - turn, drive + turn], axis=1)
    return jnp.where((distance < NEAR)[:, None], 0.0, jnp.clip(motors, -1.0, 1.0))


def wrap(angle: jax.Array) -> jax.Array:
    """To (-pi, pi]."""
    return jnp.arctan2(jnp.sin(angle), jnp.cos(angle))


@functools.partial(jax.jit, static_argnums=(0, 3))
def play(env: Swarm, keys: jax.Array, loud: jax.Array, length: int) -> SwarmState:
    """Play worlds for `length` steps. Returns their states (E, length, ...). loud: 1 for words, 0 for none."""
    params = env.make_params()

    def step(carry: tuple[jax.Array, SwarmState], _: None) -> tuple[tuple[jax.Array, SwarmState], SwarmState]:
        obs, state = carry
        said = speak(env, obs, state, params) * loud  # with all scores alike it is the first that is spoken: silence
        motors = steer(env, obs, choose_place(env, obs, params), params)
        obs, state, *_ = env.step(jax.random.key(0), state, jnp.concatenate([motors, said], axis=1), params)
        return (obs, state), state

    return jax.vmap(lambda key: jax.lax.scan(step, env.reset(key, params), None, length)[1])(keys)


def success(env: Swarm, num_worlds: int, words: bool = True, seed: int = 0) -> float:
    """Return the share of robots with a goal that arrive in time."""
    states = play(env, jax.random.split(jax.random.key(seed), num_worlds), jnp.float32(words), steps_of(env))
    return float(np.mean(np.asarray(states.goals_reached)[:, -1, env.spec.num_scouts :] > 0))


def steps_of(env: Swarm) -> int:
    """Return the time limit, in steps."""
    return int(env.make_params().max_steps)


def film(env: Swarm, out: Path, seed: int) -> None:
    """Write a world with words as a GIF or an MP4."""
    params, renderer = env.make_params(), Renderer(max_size=(720, 540), trails=40)
    states = jax.tree.map(lambda leaf: leaf[0], play(env, jax.random.key(seed)[None], jnp.float32(1), steps_of(env)))
    moments = (jax.tree.map(lambda leaf, t=t: leaf[t], states) for t in range(int(np.argmax(states.over)) + 1))
    frames = (np.asarray(renderer.draw(state, params, spec=env.spec, title=env.scenario.name)) for state in moments)
    print(f"Wrote {write_video(out, frames, fps=1 / float(params.dt))}")


def main(
    scenario: Literal["relay", "lookout"] | None = None,
    difficulty: int = 1,
    num_agents: int = 4,
    num_worlds: int = 256,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Print the share of robots that arrive, with words and without."""
    for name in [scenario] if scenario else ["relay", "lookout"]:
        env = Swarm(SwarmSpec(num_agents=num_agents), name, difficulty)
        with_words, without = (success(env, num_worlds, words, seed) for words in (True, False))
        print(f"{name}: {with_words:.3f} of the robots arrive with words, {without:.3f} without")
        if out:
            film(env, out.with_stem(f"{out.stem}_{name}") if scenario is None else out, seed)


if __name__ == "__main__":
    tyro.cli(main)
