"""Write one episode as a GIF or an MP4, with trails and lidar.

    python examples/render_episode.py --scenario obstacles --num-agents 8 --out obstacles.mp4
    python examples/render_episode.py --run-dir runs/quickstart --out trained.gif
    python examples/render_episode.py --num-agents 1000 --size 60 50 --out crowd.mp4

With --run-dir a trained policy drives, by default in worlds like those it was trained in. Without it a simple rule
steers towards the goal and away from what is near.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from entropy_env import SwarmSpec
from entropy_env.render import Renderer
from entropy_env.render.video import write_video
from entropy_env.scenarios import Open
from entropy_env.task import Task
from trainers.policies import load_policy

GOAL_SCALE, LIDAR_RANGE = 10.0, 3.0  # m, by which observations of goals and the lidar are divided by default


def steer(spec: SwarmSpec, obs: jax.Array, key: jax.Array) -> jax.Array:
    """Map observations (N, obs_dim) to motors (N, 2): the goal pulls, and everything nearer than the goal pushes."""
    lidar, goal = obs[:, spec.slice("lidar")], obs[:, spec.slice("goal")]
    angle = 2 * jnp.pi * jnp.arange(lidar.shape[1]) / lidar.shape[1]
    rays = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    distance = jnp.linalg.norm(goal, axis=-1, keepdims=True) + 1e-6
    horizon = jnp.minimum(1.0, distance * GOAL_SCALE / LIDAR_RANGE)
    push = 0.5 * jnp.maximum(1 - lidar / horizon, 0.0) ** 8 @ rays
    jitter = 0.1 * jax.random.normal(key, goal.shape)  # keeps two robots from standing nose to nose forever
    ahead, left = (goal / distance - push + jitter).T
    drive, turn = jnp.clip(ahead, 0.0, 0.7), 0.3 * jnp.arctan2(left, ahead)
    return jnp.clip(jnp.stack([drive - turn, drive + turn], axis=-1), -1.0, 1.0)


def main(
    scenario: str | None = None,
    difficulty: int | None = None,
    num_agents: int | None = None,
    size: tuple[float, float] | None = None,
    run_dir: Path | None = None,
    out: Path = Path("episode.mp4"),
    seed: int = 0,
) -> None:
    """Play one episode and write it to --out. With --size, in an open arena of this size in metres."""
    policy = load_policy(run_dir) if run_dir else None
    task = policy.task if policy else Task.of("obstacles")
    task = task.but(scenario=Open(size=size) if size else scenario, difficulty=difficulty, num_agents=num_agents)
    env, params = task.make("terminate")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    act = jax.jit(policy.act if policy else lambda obs, memory, key: (steer(env.spec, obs, key), memory))
    renderer = Renderer(max_size=(720, 540), show_lidar=True, trails=40)

    def frames(key: jax.Array) -> Iterator[np.ndarray]:
        obs, state = reset(key, params)
        memory = policy.begin(env.spec.num_agents) if policy else ()
        while True:
            lidar = obs[:, env.spec.slice("lidar")]
            yield np.asarray(renderer.draw(state, params, lidar, title=env.scenario.name, spec=env.spec))
            if state.over:
                break
            key, k_act, k_step = jax.random.split(key, 3)
            action, memory = act(obs, memory, k_act)
            obs, state, *_ = step(k_step, state, action, params)
        print(f"{state.goals_reached.sum()} of {task.num_agents} robots arrived in {state.step} steps")

    print(f"Wrote {write_video(out, frames(jax.random.key(seed)), fps=1 / float(params.dt))}")


if __name__ == "__main__":
    tyro.cli(main)
