"""Drive one robot with the arrow keys or WASD, among others that look only at their goals. Escape ends the program.

    python examples/drive.py --scenario obstacles --num-agents 8

You are the robot whose lidar is drawn. A robot that arrives gets another goal. Every minute a new world begins.
"""

from __future__ import annotations

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pygame
import tyro

from entropy_env import Swarm, SwarmSpec
from entropy_env.render import Renderer

FORWARD, BACK = (pygame.K_UP, pygame.K_w), (pygame.K_DOWN, pygame.K_s)
LEFT, RIGHT = (pygame.K_LEFT, pygame.K_a), (pygame.K_RIGHT, pygame.K_d)
YOU = 0


def read_keys() -> np.ndarray:
    """Return the left and right motor, (2,), for the keys that are held down."""
    held = pygame.key.get_pressed()
    ahead, turn = (
        any(held[key] for key in more) - any(held[key] for key in less)
        for more, less in ((FORWARD, BACK), (LEFT, RIGHT))
    )
    return np.array([0.75 * ahead - 0.25 * turn, 0.75 * ahead + 0.25 * turn], np.float32)


def go_to_goal(goal: jax.Array) -> jax.Array:
    """Return motors (N, 2) that turn towards the goal, and drive when it is ahead. goal: (N, 2), as observed."""
    ahead, left = goal.T
    bearing = jnp.arctan2(left, ahead)
    drive, turn = 0.6 * jnp.maximum(jnp.cos(bearing), 0.0), 0.25 * bearing
    return jnp.stack([drive - turn, drive + turn], axis=-1)


def main(scenario: str = "open", difficulty: int = 1, num_agents: int = 8, seed: int = 0) -> None:
    """Open a window and drive."""
    try:
        renderer = Renderer("human", show_lidar=True, trails=20)
    except RuntimeError as error:
        sys.exit(f"drive.py opens a window: {error}")
    env = Swarm(SwarmSpec(num_agents=num_agents, on_goal="next_goal"), scenario, difficulty)
    spec, params = env.spec, env.make_params(dt=0.05, max_steps=1200)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    labels = ["you", *[""] * (num_agents - 1)]
    unseen = -params.agent_radius / params.lidar_range  # a reading whose ray ends in the robot's centre: not visible
    others = jnp.arange(num_agents)[:, None] != YOU

    for key in map(jax.random.key, itertools.count(seed)):
        obs, state = reset(key, params)
        while not (state.over or renderer.closed or pygame.key.get_pressed()[pygame.K_ESCAPE]):
            action = go_to_goal(obs[:, spec.slice("goal")]).at[YOU].set(read_keys())
            obs, state, *_ = step(key, state, action, params)
            lidar = jnp.where(others, unseen, obs[:, spec.slice("lidar")])
            renderer.draw(state, params, lidar, labels, title="arrow keys or WASD")
        if not state.over:
            break
    renderer.close()


if __name__ == "__main__":
    tyro.cli(main)
