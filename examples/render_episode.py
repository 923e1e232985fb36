"""One episode as a GIF or an MP4, with trails and lidar.

    python examples/render_episode.py --scenario rooms --num-agents 8 --out rooms.gif
    python examples/render_episode.py --run-dir runs/quickstart --out trained.mp4

With --run-dir a trained policy drives, by default in the world it was trained in; else a few lines that steer towards
the goal and away from what is near.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from entropy_env.render import Renderer
from entropy_env.video import write_video
from trainers.common.policy import Task, load_policy


def steer(obs: jax.Array, key: jax.Array) -> jax.Array:
    """(N, 2) motors, from observations (N, obs_dim): a pull of the goal and a push of what the lidar sees."""
    lidar, goal = obs[:, :-4], obs[:, -2:]
    angle = 2 * jnp.pi * jnp.arange(lidar.shape[1]) / lidar.shape[1]
    rays = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    pull = goal / (jnp.linalg.norm(goal, axis=-1, keepdims=True) + 1e-6)
    push = (1 - lidar) ** 8 @ rays / 2
    ahead, left = (pull - push + 0.1 * jax.random.normal(key, pull.shape)).T
    turn = 0.3 * jnp.arctan2(left, ahead)
    drive = jnp.clip(ahead, 0.0, 0.7)
    return jnp.clip(jnp.stack([drive - turn, drive + turn], axis=-1), -1.0, 1.0)


def main(
    scenario: str | None = None,
    difficulty: int | None = None,
    num_agents: int | None = None,
    run_dir: Path | None = None,
    out: Path = Path("episode.gif"),
    seed: int = 0,
) -> None:
    """Play one episode and write it to --out."""
    policy = load_policy(run_dir) if run_dir else steer
    task = policy.task if run_dir else Task(scenario="rooms")
    given = {"scenario": scenario, "difficulty": difficulty, "num_agents": num_agents}
    task = dataclasses.replace(task, **{name: value for name, value in given.items() if value is not None})
    env, params = task.make(on_goal="terminate")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    renderer = Renderer(max_size=(720, 540), show_lidar=True, trails=40)

    def frames(key: jax.Array) -> Iterator[np.ndarray]:
        obs, state = reset(key, params)
        while True:
            lidar = obs[:, : env.spec.num_rays]
            yield renderer.draw(state, params, lidar, title=task.scenario)
            if state.done:
                break
            key, k_act, k_step = jax.random.split(key, 3)
            obs, state, *_ = step(k_step, state, policy(obs, k_act), params)
        print(f"{state.goals_reached.sum()} of {task.num_agents} robots arrived in {state.step} steps")

    print(f"Wrote {write_video(out, frames(jax.random.key(seed)), fps=1 / float(params.dt))}")


if __name__ == "__main__":
    tyro.cli(main)
