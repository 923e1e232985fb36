"""Step many worlds at once. Adds reset and respawn in the same step, and the statistics of episodes."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from entropy_env.checks import BATCH, NEVER, as_count
from entropy_env.env import Info, Swarm
from entropy_env.types import Layout, SwarmParams, SwarmState, narrow

REDRAW_PERIOD = 64  # steps in which each world gets one chance to have its next layout drawn again
REFRESH_SHARE = 8  # changed worlds are observed again in parts of 1 / REFRESH_SHARE of the batch
Carry = TypeVar("Carry")
View = Callable[[SwarmState, SwarmParams], jax.Array]


class VectorState(struct.PyTreeNode):
    """E worlds of N agents."""

    worlds: SwarmState  # (E, ...)
    next_layout: Layout  # (E, ...), the layout that each world resets to
    spent: jax.Array  # (E,) bool, `next_layout` has been used and not yet drawn again
    layout_reuses: jax.Array  # (E,) int32, resets to a layout that was already spent; 0 if the scenario draws none
    cursor: jax.Array  # () int32, the chunk of layouts that is drawn next
    episode_return: jax.Array  # (E, N), so far
    episode_length: jax.Array  # (E, N) int32, so far


def batch(
    env: Swarm, num_envs: int, stagger: bool = False, autoreset: bool = True, fresh_rows: bool = False,
    critic: View | None = None,
) -> VectorSwarm:  # fmt: skip
    """Return the same simulator over `num_envs` worlds.

    stagger: start the clocks of the worlds at random times.
    autoreset: reset a world in the step that ends it. Without it, a world that is over stays so until `reset_where`.
    fresh_rows: in worlds with `max_steps="never"`, give an agent new spawns and goals once it has used up its own, instead
    of the same ones again. The step then takes a second or two longer to compile.
    critic: what a critic sees of a world beside the observations, (N, K) from its state and parameters.
    """
    return VectorSwarm(env, num_envs, stagger, autoreset, fresh_rows, critic)


@dataclasses.dataclass(frozen=True)
class VectorSwarm:
    """`Swarm` over E worlds, with the same signatures and arrays (E, N, ...). Pure and not jitted, like `Swarm`.

    Each parameter is a scalar for all worlds, or an array (E,) with one value per world.
    """

    env: Swarm
    num_envs: int
    stagger: bool = False  # spreads the time limits; otherwise all worlds of a batch are in the same part of an episode
    autoreset: bool = True
    fresh_rows: bool = False
    critic: View | None = None  # hashable

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_envs", as_count("num_envs", self.num_envs, BATCH["num_envs"]))

    @property
    def chunk(self) -> int:
        """The number of layouts drawn at a time."""
        return -(-self.num_envs // REDRAW_PERIOD)

    def critic_input(self, state: VectorState, params: SwarmParams) -> jax.Array:
        """Return what a critic sees beside the observations, (E, N, K)."""
        return self._view(state.worlds, params)

    def _view(self, worlds: SwarmState, params: SwarmParams) -> jax.Array:
        if self.critic is None:
            raise ValueError("these worlds show a critic nothing: make them with `critic`")
        return jax.vmap(self.critic, (0, param_axes(params)))(worlds, params)

    def truth(self, state: VectorState, params: SwarmParams) -> jax.Array:
        """Return what would be right to say, (E, N, 5): payload and token. See `Scenario.truth`."""

        def told(world: SwarmState, params: SwarmParams) -> jax.Array:
            token, payload = self.env.scenario.truth(world, params, self.env.spec)
            return jnp.concatenate([payload, token[:, None].astype(jnp.float32)], axis=1)

        return jax.vmap(told, (0, param_axes(params)))(state.worlds, params)

    def heard(self, state: VectorState, params: SwarmParams) -> jax.Array:
        """Return whom each agent hears, (E, N, comm_neighbours) int32, -1 in empty slots."""
        return jax.vmap(self.env.heard, (0, param_axes(params)))(state.worlds, params)

    def draw(self, key: jax.Array, params: SwarmParams) -> Layout:
        """Draw layouts (S, E, ...). S = 2 with `autoreset`: the first to start on, the second for the next episode."""
        # The key of a layout follows from the world's number, so a world gets the same layouts in a batch of any size.
        world = 2 * jnp.arange(self.num_envs, dtype=jnp.uint32)
        episode = jnp.arange(2 if self.autoreset else 1, dtype=jnp.uint32)
        keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))(key, world[None] + episode[:, None])
        return jax.vmap(jax.vmap(self.env.generate, (0, param_axes(params))), (0, None))(keys, params)

    def reset(self, key: jax.Array, params: SwarmParams) -> tuple[jax.Array, VectorState]:
        """Begin new worlds. Returns observations (E, N, obs_dim) and the state."""
        k_layout, k_clock = jax.random.split(key)
        return self.reset_to(self.draw(k_layout, params), params, k_clock)

    def reset_to(
        self, layouts: Layout, params: SwarmParams, k_clock: jax.Array | None = None
    ) -> tuple[jax.Array, VectorState]:
        """Begin new worlds on given layouts (S, E, ...): the first for now, the last for the next episode.

        k_clock: draws the clocks with `stagger`.
        """
        axes = param_axes(params)
        worlds = jax.vmap(self.env.start)(jax.tree.map(lambda x: x[0], layouts))
        if self.stagger and k_clock is not None:
            clock = jax.random.uniform(k_clock, (self.num_envs,), jnp.float32)
            clock = (clock * jnp.asarray(params.max_steps, jnp.float32)).astype(jnp.int32)
            worlds = worlds.replace(step=jnp.where(jnp.asarray(params.max_steps) == NEVER, 0, clock))
        lanes = (self.num_envs, self.env.spec.num_agents)
        state = VectorState(
            worlds=worlds,
            next_layout=narrow(jax.tree.map(lambda x: x[-1], layouts)),
            spent=jnp.full(self.num_envs, len(layouts.size) == 1),
            layout_reuses=jnp.zeros(self.num_envs, jnp.int32),
            cursor=jnp.array(0, jnp.int32),
            episode_return=jnp.zeros(lanes, jnp.float32),
            episode_length=jnp.zeros(lanes, jnp.int32),
        )
        return jax.vmap(self.env.observe, (0, axes))(worlds, params), state

    def step(
        self, key: jax.Array, state: VectorState, action: jax.Array, params: SwarmParams
    ) -> tuple[jax.Array, VectorState, jax.Array, jax.Array, jax.Array, Info]:
        """Step every world by one control period. Agents that ended respawn, and worlds that are over reset, at once.

        action: (E, N, action_dim). The returned obs (E, N, obs_dim) are those after any respawn and reset.
        info has the entries of `Swarm.step` and:

        - `final_obs` (E, N, obs_dim), `episode_return` (E, N), `episode_length` (E, N) int32 and `success` (E, N) bool,
          all valid where terminated or truncated;
        - `goals_reached` (E, N) int32, since the world's reset;
        - `acted` (E, N) bool, the agents that took part in this step;
        - `active` (E, N) bool, the agents in the world after it, before any reset;
        - `over` (E,) bool, the worlds that are over;
        - where there are scouts, `counted` (E, N) bool: the others, whose figures are those of the scenario;
        - with `critic`, `final_critic_input` (E, N, K), before any respawn and reset.
        """
        axes = param_axes(params)
        acted = state.worlds.active
        step = jax.vmap(self.env.step, (None, 0, 0, axes))
        final_obs, worlds, reward, terminated, truncated, info = step(key, state.worlds, action, params)

        episode_return = state.episode_return + reward
        episode_length = state.episode_length + acted.astype(jnp.int32)
        success = info["reached"]  # scouts are terminated without a goal
        if self.env.spec.on_goal == "next_goal":
            success = truncated & (worlds.goals_reached > 0)
        info |= {
            "final_obs": final_obs,
            "episode_return": episode_return,
            "episode_length": episode_length,
            "success": success,
            "goals_reached": worlds.goals_reached,
            "acted": acted,
        }
        if self.env.spec.num_scouts:
            info["counted"] = jnp.broadcast_to(~jnp.asarray(self.env.spec.is_scout)[None], reward.shape)
        if self.critic is not None:
            info["final_critic_input"] = self._view(worlds, params)

        over = worlds.over
        changed = jnp.zeros_like(over)
        if self.fresh_rows and self.env.rows_run_out:
            used_up = jax.vmap(self.env.uses_up_row, (0, 0, axes))(worlds, info["reached"], params)
            worlds = worlds.replace(layout=self._renew_rows(worlds, used_up, params))
            changed = jnp.any(used_up, axis=1)
        if self.env.spec.on_goal == "respawn":
            respawned = _select(over, worlds, jax.vmap(self.env.respawn, (0, axes))(worlds, params))
            changed |= jnp.any(respawned.active != worlds.active, axis=1)
            worlds = respawned
        info |= {"active": worlds.active, "over": over}
        if self.autoreset:
            worlds, changed = _select(over, jax.vmap(self.env.start)(state.next_layout), worlds), changed | over
        obs = jnp.where(worlds.active[..., None], final_obs, 0.0)
        obs = self._observe_again(obs, worlds, params, changed)

        ended = terminated | truncated
        state = state.replace(
            worlds=worlds,
            episode_return=jnp.where(ended, 0.0, episode_return),
            episode_length=jnp.where(ended, 0, episode_length),
        )
        if self.autoreset and self.env.scenario.draws:
            state = self._redraw(key, state, over, params)
        return obs, state, reward, terminated, truncated, info

    def _renew_rows(self, worlds: SwarmState, used_up: jax.Array, params: SwarmParams) -> Layout:
        """Return the layouts with new spawns and goals for the agents of `used_up` (E, N) bool.

        Draws for one agent after another, because few use up a row in the same step.
        """
        numbers = worlds.layout, worlds.goals_reached

        def renew(carry):
            pending, spawns, goals = carry
            world, agent = jnp.unravel_index(jnp.argmax(pending), pending.shape)
            layout, goals_reached = jax.tree.map(lambda x: x[world], numbers)
            row, goal = self.env.fresh_row(layout, agent, goals_reached[agent], pick_params(params, world))
            place = world, agent
            return pending.at[place].set(False), spawns.at[place].set(row), goals.at[place].set(goal)

        first = used_up, worlds.layout.spawns, worlds.layout.goals
        _, spawns, goals = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), renew, first)
        layouts = worlds.layout.replace(spawns=spawns, goals=goals)
        if not self.env.spec.geodesic:
            return layouts

        def chart(layouts, index):
            some = jax.tree.map(lambda x: x[index], layouts)
            some = jax.vmap(self.env.chart, (0, param_axes(params)))(some, pick_params(params, index))
            return jax.tree.map(lambda old, new: old.at[index].set(new), layouts, some)

        return in_parts(jnp.any(used_up, axis=1), REFRESH_SHARE, chart, layouts)

    def reset_where(
        self, key: jax.Array, state: VectorState, which: jax.Array, params: SwarmParams
    ) -> tuple[jax.Array, VectorState]:
        """Begin new episodes, on new layouts, in the worlds of `which` (E,) bool. Returns observations of all worlds."""
        return self.start_where(self.draw(key, params), state, which, params)

    def start_where(
        self, layouts: Layout, state: VectorState, which: jax.Array, params: SwarmParams
    ) -> tuple[jax.Array, VectorState]:
        """Do as `reset_where`, on the first of the given layouts (S, E, ...)."""
        axes = param_axes(params)
        fresh = jax.tree.map(lambda x: x[0], layouts)
        state = state.replace(
            worlds=_select(which, jax.vmap(self.env.start)(fresh), state.worlds),
            episode_return=jnp.where(which[:, None], 0.0, state.episode_return),
            episode_length=jnp.where(which[:, None], 0, state.episode_length),
        )
        return jax.vmap(self.env.observe, (0, axes))(state.worlds, params), state

    def _observe_again(self, obs: jax.Array, worlds: SwarmState, params: SwarmParams, changed: jax.Array) -> jax.Array:
        """Observe the changed worlds again, in parts of the batch, because few change in the same step."""
        axes = param_axes(params)

        def refresh(obs, index):
            some = jax.tree.map(lambda x: x[index], worlds)
            seen = jax.vmap(self.env.observe, (0, axes))(some, pick_params(params, index))
            return obs.at[index].set(seen)

        return in_parts(changed, REFRESH_SHARE, refresh, obs)

    def _redraw(self, key: jax.Array, state: VectorState, over: jax.Array, params: SwarmParams) -> VectorState:
        """Mark the layouts of the worlds that are `over` (E,) bool as spent, and draw the spent ones of one chunk again."""
        axes = param_axes(params)
        state = state.replace(
            spent=state.spent | over,
            layout_reuses=state.layout_reuses + (state.spent & over).astype(jnp.int32),
        )
        first = jnp.minimum(state.cursor * self.chunk, self.num_envs - self.chunk)
        index = first + jnp.arange(self.chunk, dtype=jnp.int32)

        def draw(state):
            (keys, state), some_params = self.next_keys(key, state, index), pick_params(params, index)
            layouts = jax.vmap(self.env.generate, (0, axes))(keys, some_params)
            return state.replace(
                next_layout=jax.tree.map(lambda old, new: old.at[index].set(new), state.next_layout, layouts),
                spent=state.spent.at[index].set(False),
            )

        state = jax.lax.cond(jnp.any(state.spent[index]), draw, lambda state: state, state)
        return state.replace(cursor=(state.cursor + 1) % -(-self.num_envs // self.chunk))

    def next_keys(self, key: jax.Array, state: VectorState, index: jax.Array) -> tuple[jax.Array, VectorState]:
        """Choose what the next layouts of the worlds `index` (M,) int32 are drawn from. Returns keys (M,) and the state.

        All are new. A subclass may choose keys of layouts played before, and note so in its state.
        """
        return jax.random.split(key, self.chunk), state


def param_axes(params: SwarmParams) -> SwarmParams:
    """Return the `vmap` axes of the parameters: 0 for one given per world, None for a shared one."""
    return jax.tree.map(lambda value: 0 if jnp.ndim(value) else None, params)


def pick_params(params: SwarmParams, index: jax.Array) -> SwarmParams:
    """Return the parameters of one world or several, by index."""
    return jax.tree.map(lambda value: value[index] if jnp.ndim(value) else value, params)


def in_parts(which: jax.Array, parts: int, visit: Callable[[Carry, jax.Array], Carry], carry: Carry) -> Carry:
    """Call `carry = visit(carry, index)` on the worlds of `which` (E,) bool, one part of the batch after another.

    index: (M,) int32, with M = E / `parts`, rounded up. The last call may include worlds that are not in `which`.
    """
    size = -(-len(which) // parts)
    order = jnp.argsort(~which, stable=True).astype(jnp.int32)
    order = jnp.concatenate([order, order[: -len(which) % size]])
    count = jnp.sum(which, dtype=jnp.int32)

    def next_part(state: tuple[jax.Array, Carry]) -> tuple[jax.Array, Carry]:
        start, carry = state
        return start + size, visit(carry, jax.lax.dynamic_slice_in_dim(order, start, size))

    return jax.lax.while_loop(lambda state: state[0] < count, next_part, (jnp.int32(0), carry))[1]


def _select(mask: jax.Array, new: SwarmState, old: SwarmState) -> SwarmState:
    """Take the new state in the worlds of `mask` (E,) bool, the old one elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)


def __getattr__(name: str) -> Any:
    if name == "SpreadSwarm":
        warnings.warn("vector.SpreadSwarm is now spread.SpreadSwarm", DeprecationWarning, stacklevel=2)
        return importlib.import_module("entropy_env.spread").SpreadSwarm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
