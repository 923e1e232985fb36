"""What words are worth: success with words as they are, without them, and with worse ones, and how much is said.

A policy that does no worse when nobody hears has learnt to do without words: "positive listening" of Lowe et al. 2019, "On the
pitfalls of measuring emergent communication".
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from entropy_env.env import Swarm
from entropy_env.types import HEARD, PAYLOAD, TOKENS, SwarmParams, SwarmSpec, SwarmState
from entropy_env.vocabulary import name_of
from trainers.evaluation.figures import Report, check_counts, check_fits, episode_keys, ignore, shown
from trainers.evaluation.intervals import Interval, share_interval
from trainers.evaluation.play import attuned, choose, play
from trainers.evaluation.signals import NONE, SYMBOLS, entropy, signalling
from trainers.policies import Memory, Policy

WAYS = ("as_they_are", "shuffled", "noise")  # of what is said instead of a policy's words, by index
DROPS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
RANGES = (0.25, 0.5, 0.75, 1.0, 1.5)  # times the worlds' own `comm_range`
MEDDLING = 0x776F7264  # folded into the keys of actions
FREQUENT = 5  # tokens that the table names


def shuffle(key: jax.Array, said: jax.Array, active: jax.Array) -> jax.Array:
    """Let every active robot say what another one of them wants to say. said: (N, 36). active: (N,) bool.

    They stand in a circle in random order, and each says what the next would. One alone says its own.
    """
    count = len(active)
    order = jnp.argsort(jnp.where(active, jax.random.uniform(key, (count,), jnp.float32), 2.0)).astype(jnp.int32)
    place = jnp.zeros(count, jnp.int32).at[order].set(jnp.arange(count, dtype=jnp.int32))
    present = jnp.maximum(jnp.sum(active, dtype=jnp.int32), 1)
    return said[jnp.where(active, order[(place + 1) % present], jnp.arange(count, dtype=jnp.int32))]


def make_up(key: jax.Array, said: jax.Array, active: jax.Array) -> jax.Array:
    """Say random tokens, of which one in 32 is silence, with random payloads. See `shuffle`."""
    return jax.random.uniform(key, said.shape, said.dtype, -1.0, 1.0)


def choose_and_meddle(
    spec: SwarmSpec, way: jax.Array, stretch: jax.Array, policy: Policy, key: jax.Array, obs: jax.Array,
    state: SwarmState, memory: Memory, sampled: Any,
) -> tuple[jax.Array, Memory]:  # fmt: skip
    """Choose as the policy does, and change what is said. See `play.Choose`.

    way: () int32, index of WAYS. stretch: (), by which observed offsets of speakers are multiplied: `comm_range` over the
    one that the policy expects. So it sees them in the unit it knows, whatever the range.
    """
    inbox = spec.slice("inbox")
    slots = obs[:, inbox].reshape(len(obs), -1, HEARD)
    slots = jnp.concatenate([slots[..., :2] * stretch, slots[..., 2:]], axis=-1)
    obs = obs.at[:, inbox].set(slots.reshape(len(obs), -1))
    action, memory = choose(policy, key, obs, state, memory, sampled)
    motors, said = action[:, : -TOKENS - PAYLOAD], action[:, -TOKENS - PAYLOAD :]
    said = jax.lax.switch(
        way,
        (lambda key, said, active: said, shuffle, make_up),
        jax.random.fold_in(key, MEDDLING),
        said,
        state.active,
    )
    return jnp.concatenate([motors, said], axis=1), memory


class Meddler:
    """Plays the same worlds with other words, as often as needed. Compiled once."""

    def __init__(self, policy: Policy, env: Swarm, params: SwarmParams, episodes: int, seed: int) -> None:
        self._policy, self._env, self._params, self._episodes = attuned(policy, params), env, params, episodes
        self._keys = episode_keys(env, episodes, seed)
        self._kept: dict[tuple[int, float, float], tuple[np.ndarray, np.ndarray]] = {}
        all_worlds = jax.jit(jax.vmap(partial(_play, env), (None, None, 0, None, None)))
        self._play = all_worlds.lower(*self._given(0, self.drop, 1.0, self._keys[0])).compile()

    @property
    def drop(self) -> float:
        """The worlds' own `comm_drop`."""
        return float(self._params.comm_drop)

    def _given(self, way: int, drop: float, stretch: float, keys: jax.Array) -> tuple[Any, ...]:
        drop, stretch = jnp.float32(drop), jnp.float32(stretch)
        params = self._params.replace(comm_drop=drop, comm_range=self._params.comm_range * stretch)
        return self._policy, params, keys, jnp.int32(way), stretch

    def __call__(self, way: str = WAYS[0], drop: float | None = None, stretch: float = 1.0) -> tuple[Any, Any]:
        """Return who has arrived, (E, carriers) bool, and what was told, (E, N, ROWS, OCTANTS + 1).

        way: one of WAYS. drop: a `comm_drop`, None for the worlds' own. stretch: times their own `comm_range`.
        """
        about = WAYS.index(way), self.drop if drop is None else drop, stretch
        if about not in self._kept:
            parts = [jax.device_get(self._play(*self._given(*about, some))) for some in self._keys]
            reached, told = (np.concatenate(part)[: self._episodes] for part in zip(*parts, strict=True))
            self._kept[about] = reached[:, self._env.spec.num_scouts :], told
        return self._kept[about]

    def success(self, **how: Any) -> Interval:
        """Return the success with its interval, as in the other figures. how: see `__call__`."""
        return share_interval(self(**how)[0].mean(axis=1))


def _play(
    env: Swarm, policy: Policy, params: SwarmParams, key: jax.Array, way: jax.Array, stretch: jax.Array
) -> tuple[Any, Any]:
    """Play an episode with sampled actions. Returns who has arrived (N,), and what was told."""
    episode = play(env, policy, params, key, True, partial(choose_and_meddle, env.spec, way, stretch), tallied=True)
    return episode.reached, episode.told


def evaluate_words(
    policy: Policy, env: Swarm, params: SwarmParams, episodes: int, seed: int, report: Report = ignore
) -> dict[str, Any]:
    """Compute what words are worth, with sampled actions, in the worlds of `evaluate_policy`.

    `success` has an interval for words as they are, `cut` (nobody hears), `shuffled` (each robot says what another one would,
    drawn anew in each step) and `noise` (random tokens and payloads). `comm_drop` and `comm_range` (m) are curves of success;
    the policy is told each range, so it places speakers rightly. The other figures are of words as they are:

    - `token_bits`: the entropy of all tokens together, silence included, in bits for each step of a robot. That is the most
      that its tokens can tell. Payloads, which are real numbers, count nothing;
    - `messages`: words for each step of a robot. `silence_rate`: the share of its steps without one;
    - `token_distribution`: the share of each token;
    - `signalling_bits`: see `signals.signalling`, of the octant of the observed goal with the token, and with the octants of
      the first and of the second two numbers of the payload. None if no robot observes a goal.

    Raises ValueError where nobody talks, and if the policy was trained with other words.
    """
    check_counts(episodes, seed)
    if not env.spec.talks:
        raise ValueError(
            f"comm_neighbours={env.spec.comm_neighbours}: nobody talks in these worlds of {env.scenario.name!r}"
        )
    check_fits(policy, env)
    report("compiling the words")
    started = time.perf_counter()
    meddler = Meddler(policy, env, params, episodes, seed)
    compiled, own_range = time.perf_counter(), float(params.comm_range)
    ways: dict[str, dict[str, Any]] = {way: {"way": way} for way in WAYS} | {"cut": {"drop": 1.0}}
    drops, ranges = [{"drop": drop} for drop in DROPS], [{"stretch": stretch} for stretch in RANGES]
    for index, how in enumerate(plan := [*ways.values(), *drops, *ranges]):
        report(f"words: {index} of {len(plan)} ways to hear them")
        meddler(**how)
    return {
        "success": {name: meddler.success(**ways[name]) for name in ("as_they_are", "cut", "shuffled", "noise")},
        "comm_drop": [{"comm_drop": how["drop"], **meddler.success(**how)} for how in drops],
        "comm_range": [{"comm_range": own_range * how["stretch"], **meddler.success(**how)} for how in ranges],
        **describe(meddler()[1]),
        "compile_seconds": round(compiled - started, 3),
        "run_seconds": round(time.perf_counter() - compiled, 3),
    }


def describe(told: np.ndarray) -> dict[str, Any]:
    """Return the figures of what was told, (E, N, ROWS, OCTANTS + 1). See `evaluate_words`."""
    robots = told.reshape(-1, *told.shape[2:])
    tokens = robots[:, SYMBOLS["token"]].sum(axis=(0, 2))
    share = tokens / tokens.sum()
    aimed = robots[:, :, :NONE]
    return {
        "token_bits": entropy(tokens),
        "messages": float(1 - share[0]),
        "silence_rate": float(share[0]),
        "token_distribution": share.tolist(),
        "signalling_bits": {
            name: signalling(aimed[:, rows]) if aimed.any() else None for name, rows in SYMBOLS.items()
        },
    }


def words_table(words: dict[str, Any]) -> Table:
    """Return a table of what words are worth."""
    table = Table(title="words", caption="success with sampled actions in the same worlds")
    table.add_column("")
    table.add_column("success", justify="right")
    for name, interval in words["success"].items():
        table.add_row(name.replace("_", " "), shown(interval))
    for name, unit in (("comm_drop", ""), ("comm_range", " m")):
        table.add_section()
        for point in words[name]:
            table.add_row(f"{name} {point[name]:g}{unit}", shown({key: point[key] for key in ("mean", "low", "high")}))
    table.add_section()
    shares = np.array(words["token_distribution"])
    frequent = [token for token in np.argsort(-shares, kind="stable")[:FREQUENT] if shares[token] >= 0.005]
    rows = {
        "tokens, bits a step and robot": f"{words['token_bits']:.3f}",
        "words a step and robot": f"{words['messages']:.3f}",
        "tokens": "\n".join(f"{name_of(int(token))} {shares[token]:.0%}" for token in frequent),
    }
    for name, bits in words["signalling_bits"].items():
        rows[f"goal's octant, bits: {name.replace('_', ' ')}"] = "-" if bits is None else f"{bits:.3f}"
    for name, text in rows.items():
        table.add_row(name, text)
    return table
