"""Worlds that play again those levels from which most can be learnt.

A level is a layout, known by the key it is drawn from. With the share p of its robots that arrived, its learnability is
p (1 - p): most where half of them do, and 0 where all or none do (Rutherford et al. 2024, "No Regrets: Investigating and
Improving Regret Approximations for Curriculum Discovery"). Unlike there, nothing is played beside the training: a level
is judged each time a world has played it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from entropy_env.types import NO_KEY, Layout, SwarmParams
from entropy_env.vector import VectorState, VectorSwarm
from trainers.run.hooks import Moment

NOT_YET = -1.0  # the learnability of what a world has ended, before it has ended anything


def learnability(arrived: jax.Array) -> jax.Array:
    """Return p (1 - p) for levels whose robots arrived or did not, (..., N) bool."""
    share = jnp.mean(arrived.astype(jnp.float32), axis=-1)
    return share * (1 - share)


class Levels(struct.PyTreeNode):
    """The K most learnable levels that were played."""

    keys: jax.Array  # (K, 2) uint32, NO_KEY where there is none yet
    scores: jax.Array  # (K,) learnability when it was last played, 0 where there is none yet

    @classmethod
    def none(cls, size: int) -> Levels:
        """Return room for `size` levels."""
        return cls(jnp.full((size, 2), NO_KEY, jnp.uint32), jnp.zeros(size, jnp.float32))

    def note(self, level: jax.Array, score: jax.Array) -> Levels:
        """Keep a level, a key (2,), with its score (): in its own place, else in that of the lowest if it is above that."""
        known = jnp.all(self.keys == level, axis=1)
        slot = jnp.where(jnp.any(known), jnp.argmax(known), jnp.argmin(self.scores))
        kept = known[slot] | (score > self.scores[slot])
        return Levels(
            self.keys.at[slot].set(jnp.where(kept, level, self.keys[slot])),
            self.scores.at[slot].set(jnp.where(kept, score, self.scores[slot])),
        )

    def note_each(self, which: jax.Array, levels: jax.Array, scores: jax.Array) -> Levels:
        """Do so for those of `which` (E,) bool among levels (E, 2) with scores (E,), one after the other: they are few."""

        def note(carry: tuple[jax.Array, Levels]) -> tuple[jax.Array, Levels]:
            pending, kept = carry
            world = jnp.argmax(pending)
            return pending.at[world].set(False), kept.note(levels[world], scores[world])

        return jax.lax.while_loop(lambda carry: jnp.any(carry[0]), note, (which, self))[1]

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Draw levels (count, 2) with probabilities proportional to their scores, of which one at least is above 0."""
        until = jnp.cumsum(self.scores)
        at = until[-1] * jax.random.uniform(key, (count,), jnp.float32)
        return self.keys[jnp.searchsorted(until, at, side="right")]


class LearnableState(VectorState):
    """E worlds and the levels they may play again."""

    levels: Levels
    replayed: jax.Array  # (E,) bool, the world plays a level of `levels` again
    next_replayed: jax.Array  # (E,) bool, `next_layout` is one
    learnability: jax.Array  # (E,) of what the world has ended last; NOT_YET before


@dataclasses.dataclass(frozen=True)
class LearnableWorlds(VectorSwarm):
    """A `VectorSwarm` whose next layouts are, with probability `share`, drawn from the most learnable levels so far.

    `info` has `counted` (E, N) bool: who is in a new level, so that figures are those of new levels alone.
    """

    share: float = 0.5
    num_levels: int = 1024  # to remember

    def reset_to(
        self, layouts: Layout, params: SwarmParams, k_clock: jax.Array | None = None
    ) -> tuple[jax.Array, LearnableState]:
        """See `VectorSwarm.reset_to`."""
        obs, state = super().reset_to(layouts, params, k_clock)
        no_world = jnp.zeros(self.num_envs, bool)
        return obs, LearnableState(
            **vars(state),
            levels=Levels.none(self.num_levels),
            replayed=no_world,
            next_replayed=no_world,
            learnability=jnp.full(self.num_envs, NOT_YET, jnp.float32),
        )

    def step(self, key: jax.Array, state: LearnableState, action: jax.Array, params: SwarmParams) -> tuple:  # type: ignore[override]
        """See `VectorSwarm.step`."""
        obs, after, reward, terminated, truncated, info = super().step(key, state, action, params)
        over, scores = info["over"], learnability(info["goals_reached"][:, self.env.spec.num_scouts :] > 0)
        after = after.replace(
            levels=state.levels.note_each(over, state.worlds.layout.key, scores),
            replayed=jnp.where(over, state.next_replayed, state.replayed),
            learnability=jnp.where(over, scores, state.learnability),
        )
        info["counted"] = info.get("counted", jnp.ones(reward.shape, bool)) & ~state.replayed[:, None]
        return obs, after, reward, terminated, truncated, info

    def next_keys(self, key: jax.Array, state: LearnableState, index: jax.Array) -> tuple[jax.Array, LearnableState]:  # type: ignore[override]
        """See `VectorSwarm.next_keys`."""
        fresh, _ = super().next_keys(key, state, index)
        k_again, k_level = jax.random.split(jax.random.fold_in(key, self.num_envs))  # a number that no fresh key has
        again = jax.random.uniform(k_again, index.shape, jnp.float32) < self.share
        again &= jnp.any(state.levels.scores > 0)
        words = jnp.where(
            again[:, None], state.levels.draw(k_level, len(index)), jax.vmap(jax.random.key_data)(fresh)[:, :2]
        )
        keys = jax.random.wrap_key_data(words, impl="threefry2x32")
        return keys, state.replace(next_replayed=state.next_replayed.at[index].set(again))


def tell_learnability(moment: Moment) -> None:
    """Add `env/learnability`, the mean of the levels that worlds have ended last, and `env/replayed_share` of worlds."""
    worlds = moment.state.env_state
    ended = worlds.learnability != NOT_YET
    if ended.any():
        moment.metrics["env/learnability"] = float(worlds.learnability[ended].mean())
    moment.metrics["env/replayed_share"] = float(worlds.replayed.mean())
