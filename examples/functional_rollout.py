"""Run many worlds in one compiled loop, with a parameter that differs from world to world.

    python examples/functional_rollout.py --num-envs 1024 --scenario rooms

A parameter given as an array (num_envs,) has one value per world. New values of parameters never compile again.
"""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import tyro

from entropy_env import Swarm, SwarmParams, SwarmSpec, vector
from entropy_env.vector import VectorSwarm


@partial(jax.jit, static_argnames=("worlds", "num_steps"))
def rollout(worlds: VectorSwarm, num_steps: int, key: jax.Array, params: SwarmParams) -> jax.Array:
    """Act at random for `num_steps` control periods. Returns the share of robots in contact in each world, (num_envs,)."""
    k_reset, k_steps = jax.random.split(key)
    _, state = worlds.reset(k_reset, params)

    def step(state, key):
        k_action, k_step = jax.random.split(key)
        action = jax.random.uniform(k_action, (worlds.num_envs, worlds.env.spec.num_agents, 2), minval=-1.0)
        _obs, state, _reward, _terminated, _truncated, info = worlds.step(k_step, state, action, params)
        return state, jnp.mean(info["collision"], axis=1)

    return jax.lax.scan(step, state, jax.random.split(k_steps, num_steps))[1].mean(axis=0)


def main(
    scenario: str = "open", difficulty: int = 1, num_agents: int = 10, num_envs: int = 256, num_steps: int = 200
) -> None:
    """Time random rollouts, and see what the robots' top speed does to their contacts."""
    env = Swarm(SwarmSpec(num_agents=num_agents, on_goal="respawn"), scenario, difficulty)
    worlds = vector.batch(env, num_envs)
    speeds = jnp.linspace(0.25, 2.0, num_envs)  # m/s, one per world
    params = env.make_params(max_wheel_speed=speeds)

    started = time.perf_counter()
    compiled = rollout.lower(worlds, num_steps, jax.random.key(0), params).compile()
    print(f"compiled in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    contact = compiled(jax.random.key(0), params).block_until_ready()
    fps = num_steps * num_envs * num_agents / (time.perf_counter() - started)
    print(f"{fps:,.0f} agent steps/s on {jax.devices()[0].device_kind}")

    print("top speed         in contact")
    for speed, share in zip(jnp.array_split(speeds, 4), jnp.array_split(contact, 4), strict=True):
        print(f"{speed[0]:.2f} to {speed[-1]:.2f} m/s  {share.mean():.1%}")


if __name__ == "__main__":
    tyro.cli(main)
