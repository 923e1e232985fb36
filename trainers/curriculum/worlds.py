"""Worlds that play the stages of a curriculum, each its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from entropy_env.types import SwarmParams
from entropy_env.vector import VectorState, VectorSwarm


class StagedParams(struct.PyTreeNode):
    """The parameters of E worlds, each in a stage."""

    swarm: SwarmParams  # each number () or (E,); difficulty (E,) is the number of the stage, from 1
    counted: jax.Array  # (E,) bool, the worlds in the current stage; the others play earlier stages again


class StagedState(struct.PyTreeNode):
    """E worlds and the stage that each is in."""

    swarm: VectorState
    stage: jax.Array  # (E,) int32, from 1

    @property
    def layout_reuses(self) -> jax.Array:
        """See `VectorState`."""
        return self.swarm.layout_reuses


@dataclasses.dataclass(frozen=True)
class StagedWorlds:
    """A `VectorSwarm` whose worlds begin anew in the step after their stage has changed.

    Their episodes end there as at a time limit. `info` has `counted` (E, N) bool: whose figures are those of the current
    stage.
    """

    worlds: VectorSwarm

    def reset(self, key: jax.Array, params: StagedParams) -> tuple[jax.Array, StagedState]:
        """Begin new worlds."""
        obs, swarm = self.worlds.reset(key, params.swarm)
        return obs, StagedState(swarm, jnp.asarray(params.swarm.difficulty))

    def critic_input(self, state: StagedState, params: StagedParams) -> jax.Array:
        """See `VectorSwarm`."""
        return self.worlds.critic_input(state.swarm, params.swarm)

    def heard(self, state: StagedState, params: StagedParams) -> jax.Array:
        """See `VectorSwarm`."""
        return self.worlds.heard(state.swarm, params.swarm)

    def step(self, key: jax.Array, state: StagedState, action: jax.Array, params: StagedParams) -> tuple:
        """Step every world, see `VectorSwarm.step`."""
        k_step, k_new = jax.random.split(key)
        obs, swarm, reward, terminated, truncated, info = self.worlds.step(k_step, state.swarm, action, params.swarm)
        stage = jnp.asarray(params.swarm.difficulty)
        moved = stage != state.stage

        def begin(obs: jax.Array, swarm: VectorState) -> tuple[jax.Array, VectorState]:
            new_obs, new = self.worlds.reset(k_new, params.swarm)
            new = new.replace(cursor=swarm.cursor, layout_reuses=swarm.layout_reuses)
            return jax.tree.map(lambda a, b: _where(moved, a, b), (new_obs, new), (obs, swarm))

        obs, swarm = jax.lax.cond(jnp.any(moved), begin, lambda *old: old, obs, swarm)
        truncated |= moved[:, None] & info["acted"] & ~terminated
        info["counted"] = info.get("counted", jnp.ones(reward.shape, bool)) & (params.counted & ~moved)[:, None]
        return obs, StagedState(swarm, stage), reward, terminated, truncated, info


def _where(mask: jax.Array, new: Any, old: Any) -> jax.Array:
    """Take the new array in the worlds of `mask` (E,) bool, the old one elsewhere, and where there are no worlds."""
    return jnp.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old) if new.ndim else old
