"""Figures of a rollout that learners report."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from trainers.learn.losses import masked_mean, mean_over_devices, over_devices
from trainers.learn.rollout import Transitions


def rollout_metrics(steps: Transitions, axis: str | None = None) -> dict[str, jax.Array]:
    """Return means over a rollout, without idle lanes. Those of `env/` are there if the environment reports them.

    `env/goal_reached_rate` is the share of agents that reached their first goal in a world before the time limit. Later
    goals would bias it, because an agent has less time left for them. `env/episodes` is how many agents that is over, and
    `train/episodes` how many episodes ended. Lanes that the environment does not count are left out.
    """
    if "counted" in steps.info:
        counted = steps.info["counted"]
        steps = steps.replace(
            acted=steps.acted & counted, terminated=steps.terminated & counted, truncated=steps.truncated & counted
        )
    done, info = steps.done, steps.info
    mean = masked_mean(steps.reward, steps.acted, axis)
    metrics = {
        "train/reward_mean": mean,
        "train/reward_std": jnp.sqrt(masked_mean(jnp.square(steps.reward - mean), steps.acted, axis)),
        "train/episode_length": masked_mean(info["episode_length"].astype(jnp.float32), done, axis),
        "train/episode_return": masked_mean(info["episode_return"], done, axis),
        "train/episodes": over_devices(jnp.sum(done, dtype=jnp.int32), axis),
        "train/active_share": mean_over_devices(jnp.mean(steps.acted.astype(jnp.float32)), axis),
    }
    if "success" in info:
        first = done & (info["goals_reached"] == info["success"])
        metrics["env/goal_reached_rate"] = masked_mean(info["success"].astype(jnp.float32), first, axis)
        metrics["env/episodes"] = over_devices(jnp.sum(first, dtype=jnp.int32), axis)
    if "collision" in info:
        metrics["env/collision_rate"] = masked_mean(info["collision"].astype(jnp.float32), steps.acted, axis)
    return metrics
