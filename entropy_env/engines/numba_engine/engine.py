"""The Numba engine: many worlds in NumPy arrays, stepped on the cores of a CPU."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numba
import numpy as np

from entropy_env.checks import NEVER, as_action
from entropy_env.engines.interface import (
    Transition,
    as_seed,
    check_draws,
    check_fork,
    check_names,
    check_params,
    check_shape,
    check_start,
    check_state,
    check_which,
    draw,
    draw_rows,
    read_draws,
    with_ways,
)
from entropy_env.engines.numba_engine.arrays import (
    PARAMS,
    Swarms,
    empty_maps,
    empty_swarms,
    empty_ways,
    is_social,
    map_bytes,
    pack_params,
    pack_weights,
    read_layout,
    read_state,
    words_of,
    write_maps,
    write_state,
)
from entropy_env.engines.numba_engine.kernels import load_kernels
from entropy_env.engines.numba_engine.observations import check_components, global_state
from entropy_env.engines.numba_engine.rewards import check_built_in, compile_terms
from entropy_env.engines.numba_engine.schedule import GATHER, HEAR, RETURN, SEE, SORT, WHOLE_WORLD, place_of
from entropy_env.engines.numba_engine.step import Choices, make_choices
from entropy_env.engines.numba_engine.threads import default_threads, share
from entropy_env.env import Swarm
from entropy_env.neighbours import uses_grid
from entropy_env.types import Layout, SwarmParams, SwarmState
from entropy_env.vector import VectorSwarm

CELLS_FROM = 64  # agents of a world from which cells are faster than looking at all pairs
CELLS_PER_AGENT = 4
TEAM_FROM = 4096  # agents of a world from which several threads share its stages, if there are few worlds
CHUNK = 64  # fewest agents worth a call of a kernel: they take 20 us
SHARED_FROM = 256  # agents of all worlds from which other threads are woken; one moves fewer before another wakes up


class NumbaEngine:
    """`entropy_env.engines.interface.Engine` in compiled loops, which allocate nothing.

    The scenario draws layouts for all worlds at a time. The next ones are drawn while the present ones are played.
    """

    def __init__(
        self,
        env: Swarm,
        num_envs: int,
        params: SwarmParams,
        autoreset: bool = True,
        num_threads: int | None = None,
    ) -> None:
        check_components()
        check_built_in()
        self._kernels = load_kernels(is_social(env.spec))
        self.env, self.num_envs, self.autoreset = env, num_envs, autoreset
        self.num_threads = default_threads() if num_threads is None else num_threads
        spec = env.spec
        num_cells = CELLS_PER_AGENT * spec.num_agents if uses_grid(spec, CELLS_FROM) else 1
        self._w = empty_swarms(spec, num_envs, self.num_threads, num_cells)
        self._next_maps, self._next_ways = empty_maps(spec, num_envs), empty_ways(spec, num_envs)
        here, following = (self._w.maps, self._w.ways), (self._next_maps, self._next_ways)
        both = ([row for maps in place for row in map_bytes(maps)] for place in (here, following))
        self._map_pairs = list(zip(*both, strict=True))
        self._spent = np.ones(num_envs, bool)  # worlds whose next map has already been played
        self._everywhere, self._over = np.ones(num_envs, bool), np.zeros(num_envs, bool)
        self._action = np.zeros((num_envs, spec.num_agents, spec.action_dim), np.float32)
        self._own_terms = compile_terms(spec.own_terms) if spec.own_terms else None
        self._choices = make_choices(spec, autoreset, self._own_terms.address if self._own_terms else 0)
        self._num_stages = len(self._choices.schedule)
        self._looking = [stage for stage in (SORT, SEE, GATHER, HEAR) if stage in self._choices.schedule[:, 0]]
        self._transition = _transition(self._w)
        self._batch = VectorSwarm(env, num_envs, autoreset=autoreset)
        self._seed, self._draws = np.zeros(2, np.uint32), 0
        self._drawing: Layout | None = None  # (S, E, ...), layouts that are being drawn
        self._begun = False
        self._alone = threading.Lock()  # two threads that step one engine would write to the same lists
        self.params = params
        given = self._w, self._packed, self._action, self._choices
        assert tuple(map(numba.typeof, given)) == self._kernels.types, "the kernels are compiled for other arrays"

    @property
    def params(self) -> SwarmParams:
        """See `Engine`."""
        return self._params

    @params.setter
    def params(self, params: SwarmParams) -> None:
        check_params(params, self.env, self.num_envs)
        self._packed = pack_params(params, self.num_envs)
        pack_weights(self._w.weights, params, self.env.terms)
        self._rows_run_out = self.env.rows_run_out and bool(np.any(self._packed["max_steps"] == NEVER))
        self._params = params
        if not self.autoreset:
            self._spent[:] = True  # maps drawn with the old parameters are not used any more

    def reset(self, seed: int | np.ndarray | None = None, which: np.ndarray | None = None) -> np.ndarray:
        """See `Engine`."""
        check_draws(self.env)
        if which is not None:
            self._check_begun()
        where = check_which(which, self.num_envs)
        seed = None if seed is None else as_seed(seed)
        with self._alone:
            if seed is not None:
                self._seed, self._draws, self._drawing = seed, 0, None
            elif which is not None and not self.autoreset:
                if (self._spent & where).any():
                    self._refill()
                self._start(where)
                return self._observe(self._everywhere)
            layouts = self._draw()
            self._write_next(jax.tree.map(lambda x: x[0], layouts))
            self._start(where)
            self._write_next(jax.tree.map(lambda x: x[-1], layouts))
            self._spent[:] = not self.autoreset
            return self._observe(self._everywhere)

    def reset_to(self, layout: Layout) -> np.ndarray:
        """See `Engine`."""
        layout = with_ways(layout, self.env, self.params, _cpu())
        check_start(layout, self.env, self.num_envs)
        with self._alone:
            self._write_next(layout)
            self._start(self._everywhere)
            return self._observe(self._everywhere)

    def step(self, action: np.ndarray) -> Transition:
        """See `Engine`."""
        action = as_action("action", action, self._action.shape)
        with self._alone:
            self._check_begun()
            self._action = np.require(action, requirements=["C", "A"])  # kernels read it as it is
            self._begun = False  # after an interrupted step no episode can go on
            first, stop = 0, self._num_stages
            if self._rows_run_out:
                first = place_of(RETURN, self._choices.schedule)
                self._run(0, first, self._everywhere)
                self._renew_rows()
            ended = self._run(first, stop, self._everywhere)
            if ended and self.autoreset:
                over = self._over
                over[...] = self._transition.over  # a contiguous copy, for the kernels
                if self.env.scenario.draws and (self._spent & over).any():
                    self._refill()
                self._start(over)
                self._observe(over)
            self._begun = True
            return self._transition

    def observe(self) -> np.ndarray:
        """See `Engine`."""
        with self._alone:
            self._check_begun()
            return self._observe(self._everywhere)

    @property
    def valid(self) -> np.ndarray:
        """See `Engine`."""
        self._check_begun()
        return self._w.maps.valid.copy()

    def global_state(self) -> np.ndarray:
        """See `Engine`."""
        self._check_begun()
        return global_state(self._w, self.env.spec)

    @property
    def state(self) -> SwarmState:
        """See `Engine`."""
        self._check_begun()
        return read_state(self._w)

    @state.setter
    def state(self, state: SwarmState) -> None:
        check_state(state, self.env, self.num_envs)
        with self._alone:
            write_state(self._w, state)
            if not self.env.scenario.draws:
                self._write_next(state.layout)
            self._w.agents["return_so_far"], self._w.agents["length_so_far"] = 0, 0
            self._begun = True

    def snapshot(self) -> dict[str, np.ndarray]:
        """See `Engine`."""
        self._check_begun()
        draws = self._draws - (self._drawing is not None)  # what is being drawn is drawn again
        arrays = {name: np.ascontiguousarray(array).view(np.uint8) for name, array in self._lasting().items()}
        rest = {"spent": self._spent.copy(), "seed": self._seed, "draws": np.array(draws)}
        return {name: array.copy() for name, array in arrays.items()} | rest

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """See `Engine`."""
        lasting = self._lasting()
        check_names("snapshot", snapshot, {*lasting, "spent", "seed", "draws"})
        for name, array in lasting.items():
            check_shape(f"snapshot[{name!r}]", snapshot[name], array.view(np.uint8).shape)
        check_shape("snapshot['spent']", snapshot["spent"], self._spent.shape)
        seed, draws = read_draws(snapshot)
        goal = np.ascontiguousarray(snapshot["agents"]).view(self._w.agents.dtype)["goal_index"]
        if np.any((goal < 0) | (goal >= self.env.spec.num_goals)):
            raise ValueError(f"the snapshot has goals from {goal.min()} to {goal.max()}: it is damaged")
        with self._alone:
            for name, array in lasting.items():
                array.view(np.uint8)[...] = snapshot[name]
            self._spent[...] = snapshot["spent"]
            self._seed, self._draws, self._drawing = seed, draws, None
            self._begun = True

    def _lasting(self) -> dict[str, np.ndarray]:
        """Return the arrays that hold the episodes and the next maps, by name."""
        w = self._w
        names = [name for name in w.maps._fields if name != "team" or self.env.spec.teams]
        maps = {f"maps/{name}": getattr(w.maps, name) for name in names}
        maps |= {f"next_maps/{name}": getattr(self._next_maps, name) for name in names}
        if self.env.spec.geodesic:
            maps |= {f"ways/{name}": array for name, array in w.ways._asdict().items()}
            maps |= {f"next_ways/{name}": array for name, array in self._next_ways._asdict().items()}
        agents = {"agents": w.agents, "motions": w.motions, "obs": w.obs, "final_obs": w.final_obs}
        words = {f"words/{name}": array for name, array in words_of(w).items()}
        return agents | {"worlds": w.worlds} | maps | words

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the views, which would not be views of the copy, and the layouts that are being drawn."""
        made_with = self.env, self.num_envs, self.params, self.autoreset, self.num_threads
        return {"made_with": made_with, "snapshot": self.snapshot() if self._begun else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["made_with"])  # type: ignore[misc]
        if state["snapshot"] is not None:
            self.restore(state["snapshot"])

    def _check_begun(self) -> None:
        if not self._begun:
            raise RuntimeError("no episode has begun: call reset()")

    def _start(self, which: np.ndarray) -> None:
        """Begin episodes in the worlds of `which` (E,) bool, on their next maps."""
        for target, source in self._map_pairs:
            self._kernels.copy_rows(target, source, which)
        self._kernels.start(self._w, which)
        self._spent |= which
        self._begun = True

    def _observe(self, which: np.ndarray) -> np.ndarray:
        """Observe in the worlds of `which` (E,) bool, as they are now."""
        for stage in self._looking:
            k = place_of(stage, self._choices.schedule)
            self._run(k, k + 1, which, self._choices._replace(autoreset=False))  # also those that are over
        return self._w.obs

    def _run(self, first: int, stop: int, which: np.ndarray, choices: Choices | None = None) -> int:
        """Run stages of a step in the worlds of `which` (E,) bool, on all threads. Returns how many worlds are over."""
        args, run = (self._w, self._packed, self._action, choices or self._choices), self._kernels.run
        num_agents = self.env.spec.num_agents
        if self.num_threads > 1 and num_agents >= TEAM_FROM and self.num_envs < 2 * self.num_threads:
            return sum(self._run_as_team(args, first, stop, which, e) for e in range(self.num_envs) if which[e])
        chunk = max(CHUNK // num_agents, 1)
        num_threads = self.num_threads if self.num_envs * num_agents >= SHARED_FROM else 1

        def worlds(slot: int, part: tuple[int, int]) -> int:
            return run(*args, slot, which, part, (first, stop), (0, num_agents))

        return share(worlds, self.num_envs, chunk, num_threads)

    def _run_as_team(self, args: tuple, first: int, stop: int, which: np.ndarray, e: int) -> int:
        """Do as `_run`, in world e. Threads share the agents of each stage, unless it works on the whole world."""
        num_agents, world, run, ended = self.env.spec.num_agents, (e, e + 1), self._kernels.run, 0
        for k in range(first, stop):

            def agents(slot: int, part: tuple[int, int], stage: tuple[int, int] = (k, k + 1)) -> int:
                return run(*args, slot, which, world, stage, part)

            whole = self._choices.schedule[k, 0] in WHOLE_WORLD
            ended = share(agents, num_agents, num_agents if whole else CHUNK, self.num_threads)
        return int(ended > 0)

    def _renew_rows(self) -> None:
        """Draw new spawns and goals for the agents that have used up their row, as `Swarm.uses_up_row`."""
        agents, maps, unlimited = self._w.agents, self._w.maps, self._packed["max_steps"] == NEVER
        last = agents["goals_reached"] % self.env.spec.num_goals == 0
        used_up = agents["reached"] & last & unlimited[:, None]
        worlds, which = np.nonzero(used_up)
        if not len(worlds):
            return
        check_fork()
        which = which.astype(np.int32)
        some = read_layout(self._w, worlds, ways=False), which, agents["goals_reached"][used_up]
        rows = draw_rows(self.env, *some, self._params_of(worlds), _cpu())
        maps.spawns[worlds, which], maps.goals[worlds, which] = rows
        if self.env.spec.geodesic:
            for world in np.unique(worlds)[:, None]:  # one at a time, so only one size is compiled
                layout = read_layout(self._w, world, ways=False)
                layout = with_ways(layout, self.env, self._params_of(world), _cpu())
                write_maps(maps, self._w.ways, layout, world)

    def _params_of(self, worlds: np.ndarray) -> SwarmParams:
        """Return the parameters of worlds, one value each. Leaves out weights of own terms."""
        own: dict[str, Any] = {name: self._packed[name][worlds] for name in PARAMS.names or ()}
        return SwarmParams(**own)

    def _refill(self) -> None:
        """Give a new next map to every world whose own has been played."""
        layouts = jax.tree.map(lambda x: x[0][self._spent], self._draw())
        self._write_next(layouts, self._spent)
        self._spent[:] = False

    def _write_next(self, layout: Layout, where: Any = slice(None)) -> None:
        """Copy layouts into the next maps of the worlds at `where`."""
        write_maps(self._next_maps, self._next_ways, layout, where)

    def _draw(self) -> Layout:
        """Return layouts (S, E, ...), and begin to draw the next ones in JAX's own thread."""
        check_fork()
        layouts = self._begin_drawing() if self._drawing is None else self._drawing
        self._drawing = self._begin_drawing() if self.autoreset else None
        return jax.tree.map(np.asarray, layouts)

    def _begin_drawing(self) -> Layout:
        """Begin to draw layouts in JAX's own thread, always on the CPU."""
        self._draws += 1
        return draw(self._batch, self._seed, self._draws - 1, self.params, _cpu())


def _transition(w: Swarms) -> Transition:
    """Return the results of a step, as views of the arrays."""
    agents = w.agents
    return Transition(
        obs=w.obs,
        final_obs=w.final_obs,
        over=w.worlds["over_before_reset"],
        reward_terms=w.reward_terms if w.reward_terms.size else agents["reward_terms"],
        active=agents["active_before_reset"],
        goals_reached=agents["goals_reached_before_reset"],
        **{
            name: agents[name]
            for name in (
                "reward", "terminated", "truncated", "acted", "reached", "collision", "success", "episode_return",
                "episode_length",
            )
        },
    )  # fmt: skip


@functools.cache
def _cpu() -> jax.Device | None:
    """Return JAX's CPU, or None if JAX may only use other platforms."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
