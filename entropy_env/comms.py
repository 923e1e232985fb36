"""Words that robots say to each other, and who hears them.

Where `comm_neighbours` is above 0, an action has 36 more numbers after the motors: a score for each of 32 tokens, of which
the highest is spoken (ties go to the lowest index), and a payload of 4 numbers. Token 0 is silence. `vocabulary` names the
others. Channels decide who may hear a word:

- `broadcast`: everybody within `comm_range`;
- `targeted`: of these only the robot that was, as the word was spoken, the nearest to the speaker within 15 degrees of the
  direction payload[0:2], which is in the speaker's frame. A robot beyond `comm_range` was not meant, and zero reaches nobody;
- `team`: of these only the speaker's team.

What is said in a step is heard in the observation after it, or `comm_delay` steps later. A word carries the pose of its
speaker as it spoke, so that a place told in the speaker's frame is exact however both have moved since. Who is in range, and
who is nearest, goes by where robots are now. A word dies with its speaker's episode.

What may be lost, and noise, follow from the layout's key, the clock and the two robots, in the same way in both engines. On
a map given by hand they are the same in every episode.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.neighbours import find_neighbours, most, uses_grid
from entropy_env.types import HEARD, PAYLOAD, TOKENS, SwarmParams, SwarmSpec, SwarmState, Words

FEW = 16  # agents up to which comparing all with all is faster than a search
CONE = math.cos(math.radians(15))  # of the direction in which a word is `targeted`
ENOUGH = 1 - 1e-4  # credit for a word; less than 1, because rates are summed in float32
DROP, NOISE = 1, 2  # what random numbers are for; noise uses two for each number of the payload
LEAST = float(np.finfo(np.float32).tiny)  # of a direction; smaller numbers are zero to some processors
NOBODY = -1


def speak(state: SwarmState, said: jax.Array, params: SwarmParams, spec: SwarmSpec) -> tuple[Words, jax.Array]:
    """Return the words after all have spoken, and who did, (N,) float32 of 0 and 1.

    state: before the physics. said: (N, 36), of the action. What is not finite counts as 0.
    """
    words, said = state.words, jnp.where(jnp.isfinite(said), said, 0.0)
    assert words is not None
    limited = params.comm_rate > 0
    credit = words.credit + params.comm_rate * params.dt  # what exceeds a word is kept, or rates would be rounded down
    may = state.active & (~limited | (credit >= ENOUGH))
    token = jnp.where(may, jnp.argmax(said[:, :TOKENS], axis=1).astype(jnp.int32), 0)
    payload, spoken = jnp.clip(said[:, TOKENS:], -1.0, 1.0), (token > 0).astype(jnp.float32)
    pose = jnp.concatenate([state.position, state.heading[:, None]], axis=1)
    credit = jnp.clip(credit - spoken, 0.0, 1.0)
    new: dict[str, Any] = {"token": token, "payload": payload, "pose": pose}
    if words.to is not None:
        new["to"] = jnp.where(token > 0, _meant_for(state, payload[:, :2], params, spec), NOBODY)
    old = {name: getattr(words, name) for name in new}
    kept = {name: jnp.concatenate([each[:, None], old[name][:, :-1]], axis=1) for name, each in new.items()}
    return words.replace(**kept, credit=jnp.where(limited, credit, 1.0)), spoken


def _meant_for(state: SwarmState, direction: jax.Array, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Return the nearest agent in the direction (N, 2) that each points in, in its frame, (N,) int32, or NOBODY."""
    size = jnp.max(jnp.abs(direction), axis=1, keepdims=True)
    direction = jnp.where(size >= LEAST, direction / jnp.where(size >= LEAST, size, 1.0), 0.0)
    cos, sin = jnp.cos(state.heading), jnp.sin(state.heading)
    to_x, to_y = direction[:, 0] * cos - direction[:, 1] * sin, direction[:, 0] * sin + direction[:, 1] * cos
    square = to_x * to_x + to_y * to_y
    x, y = state.position[:, 0], state.position[:, 1]
    me = jnp.arange(spec.num_agents, dtype=jnp.int32)
    near = find_neighbours(spec, (x, y), (x, y), state.active, state.layout.size, params.comm_range)

    def nearer(best: tuple[jax.Array, jax.Array], j: jax.Array, there: Any) -> tuple[jax.Array, jax.Array]:
        dx, dy = x[j] - x, y[j] - y
        away, along = dx * dx + dy * dy, dx * to_x + dy * to_y
        ahead = (along >= 0) & (along * along >= jnp.float32(CONE * CONE) * away * square) & (square > 0)
        may = there & ahead & (j != me) & state.active[j] & (away <= jnp.square(params.comm_range))
        closer = may & ((away < best[0]) | ((away == best[0]) & (j < best[1])))
        return jnp.where(closer, away, best[0]), jnp.where(closer, j, best[1]).astype(jnp.int32)

    first = jnp.full(spec.num_agents, jnp.inf, jnp.float32), jnp.full(spec.num_agents, spec.num_agents, jnp.int32)
    away, who = near.visit(nearer, first)
    return jnp.where(jnp.isfinite(away), who, NOBODY)


def heard(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Return whom each agent hears, (N, K) int32, nearest first, NOBODY in empty slots."""
    said = _arriving(state, params)
    slots = min(spec.comm_neighbours, spec.num_agents)
    if _compares_all(spec):
        who = _nearest_of_few(_audible_pairs(state, said, params, spec), slots)
    else:
        who = _nearest(state, said, params, spec, slots)
    who = jnp.pad(who, ((0, 0), (0, spec.comm_neighbours - slots)), constant_values=NOBODY)
    return jnp.where(state.active[:, None], who, NOBODY)


def inbox(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """What is heard, (N, 9 K): see `hear`, slot after slot."""
    return hear(state, params, spec).reshape(spec.num_agents, -1)


def hear(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Return what each agent hears, (N, K, 9), nearest speaker first, zero in empty slots.

    In this order: the offset to where the speaker spoke, over `comm_range` and clipped to [-1, 1] (2), and the cosine and
    sine of its heading then (2), both in the listener's frame now; token / 31 (1); payload (4).
    """
    who, said = heard(state, params, spec), _arriving(state, params)
    facing = said.pose[:, 2]
    told = [
        said.pose[:, 0],
        said.pose[:, 1],
        jnp.cos(facing),
        jnp.sin(facing),
        said.token.astype(jnp.float32) / (TOKENS - 1),
    ]
    table = jnp.concatenate([jnp.stack(told, axis=1), said.payload], axis=1)

    def slots(who: jax.Array, table: jax.Array, state: SwarmState, params: SwarmParams) -> jax.Array:
        some = jnp.maximum(who, 0)
        if _compares_all(spec):  # then it is faster to look at all from everywhere than to pick first
            seen = _seen(jnp.broadcast_to(table[None], (spec.num_agents, *table.shape)), state, params)
            seen = jnp.take_along_axis(seen, some[..., None], axis=1, mode="promise_in_bounds")
        else:
            seen = _seen(table.at[some].get(mode="promise_in_bounds"), state, params)
        place, payload = jnp.split(seen, [HEARD - PAYLOAD], axis=-1)
        noisy = _anywhere(jnp.asarray(params.comm_noise) > 0)
        payload = jax.lax.cond(noisy, _noisy, lambda payload, *_: payload, payload, who, state, params)
        return jnp.where((who >= 0)[..., None], jnp.concatenate([place, payload], axis=-1), 0.0)

    def empty(who: jax.Array, *_: Any) -> jax.Array:
        return jnp.zeros((*who.shape, HEARD), jnp.float32)

    # A branch: without one, XLA would search for the nearest speakers again for every number of the observation.
    return jax.lax.cond(_anywhere(who >= 0), slots, empty, who, table, state, params)


def _seen(told: jax.Array, state: SwarmState, params: SwarmParams) -> jax.Array:
    """Turn what is said from the world's frame into that of each listener.

    told: (N, M, 9), of each listener: x, y (m), cosine and sine of the heading, token and payload. Returns slots of `hear`.
    """
    cos, sin = jnp.cos(state.heading)[:, None], jnp.sin(state.heading)[:, None]
    dx, dy = (told[..., axis] - state.position[:, axis, None] for axis in (0, 1))
    its_cos, its_sin = told[..., 2], told[..., 3]
    turned = [
        (dx * cos + dy * sin) / params.comm_range,
        (dy * cos - dx * sin) / params.comm_range,
        its_cos * cos + its_sin * sin,
        its_sin * cos - its_cos * sin,
    ]
    return jnp.concatenate([jnp.clip(jnp.stack(turned, axis=-1), -1.0, 1.0), told[..., 4:]], axis=-1)


def _compares_all(spec: SwarmSpec) -> bool:
    """Whether there are so few agents that comparing all with all is faster than a search."""
    return spec.num_agents <= FEW and not uses_grid(spec)


def _anywhere(what: jax.Array) -> jax.Array:
    """Whether anything is true, () bool. Under `vmap` in any world, so that `cond` stays a branch."""
    return most(what.astype(jnp.int32)) > 0


def _arriving(state: SwarmState, params: SwarmParams) -> Words:
    """Return the words that arrive now, each field without the axis of the history."""
    words = state.words
    assert words is not None
    late = jnp.clip(params.comm_delay, 0, words.token.shape[1] - 1)
    fields = {name: getattr(words, name) for name in ("token", "payload", "pose", "to")}
    return words.replace(
        **{
            name: None if field is None else jax.lax.dynamic_index_in_dim(field, late, 1, keepdims=False)
            for name, field in fields.items()
        }
    )


def _audible_pairs(state: SwarmState, said: Words, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Return the squared distance (N, N) m^2 of listeners from speakers, inf where a word is not heard."""
    me = jnp.arange(spec.num_agents, dtype=jnp.int32)
    away = sum(jnp.square(state.position[None, :, axis] - state.position[:, axis, None]) for axis in (0, 1))
    return jnp.where(_audible(me[:, None], me[None], away, state, said, params, spec), away, jnp.inf)


def _audible(
    listener: jax.Array,
    speaker: jax.Array,
    away: Any,
    state: SwarmState,
    said: Words,
    params: SwarmParams,
    spec: SwarmSpec,
) -> jax.Array:
    """Return which words are heard. listener, speaker: int32, of one shape. away: m^2, between them."""
    there = state.active[speaker] & (said.token[speaker] > 0) & (listener != speaker)
    there &= away <= jnp.square(params.comm_range)
    if said.to is not None:
        there &= said.to[speaker] == listener
    if spec.comm_channel == "team" and state.layout.team is not None:
        there &= state.layout.team[speaker] == state.layout.team[listener]
    key, clock = state.layout.key, state.step

    def arrives(listener: jax.Array, speaker: jax.Array) -> jax.Array:
        return uniform(key, clock, listener, speaker, DROP) >= params.comm_drop

    def always(listener: jax.Array, speaker: jax.Array) -> jax.Array:
        return jnp.ones(jnp.broadcast_shapes(listener.shape, speaker.shape), bool)

    return there & jax.lax.cond(params.comm_drop > 0, arrives, always, listener, speaker)


def _nearest_of_few(away: jax.Array, slots: int) -> jax.Array:
    """Return the nearest speakers, (N, slots) int32, or NOBODY. away: (N, N) m^2, inf for those who are not heard."""
    count = away.shape[1]
    rank = jnp.zeros(away.shape, jnp.int32)
    for j in range(count):  # how many come before each: nearer ones, and of those as near, lower ones
        first = (away[:, j, None] < away) | ((away[:, j, None] == away) & (j < np.arange(count))[None])
        rank += first.astype(jnp.int32)
    rank = jnp.where(jnp.isfinite(away), rank, count)
    who = jnp.full((away.shape[0], slots), NOBODY, jnp.int32)
    for j in range(count):
        who = jnp.where(rank[:, j, None] == np.arange(slots, dtype=np.int32)[None], j, who)
    return who


def _nearest(state: SwarmState, said: Words, params: SwarmParams, spec: SwarmSpec, slots: int) -> jax.Array:
    """Do as `_nearest_of_few`, by insertion into a sorted list of the nearest so far."""
    x, y = state.position[:, 0], state.position[:, 1]
    me = jnp.arange(spec.num_agents, dtype=jnp.int32)
    loud = state.active & (said.token > 0)
    near = find_neighbours(spec, (x, y), (x, y), loud, state.layout.size, params.comm_range)

    def insert(best: tuple[jax.Array, jax.Array], j: jax.Array, there: Any) -> tuple[jax.Array, jax.Array]:
        away, who = best
        speaker = jnp.broadcast_to(j, me.shape).astype(jnp.int32)
        distance = jnp.square(x[speaker] - x) + jnp.square(y[speaker] - y)
        may = there & _audible(me, speaker, distance, state, said, params, spec)
        distance, speaker = jnp.where(may, distance, jnp.inf)[:, None], speaker[:, None]
        before = (away < distance) | ((away == distance) & (who < speaker))  # of a sorted list, so the first some
        here = ~before & jnp.concatenate([jnp.ones_like(before[:, :1]), before[:, :-1]], axis=1) & may[:, None]
        shifted = (jnp.concatenate([each[:, :1], each[:, :-1]], axis=1) for each in (away, who))
        new = [
            jnp.where(before | ~may[:, None], old, jnp.where(here, mine, later))
            for old, mine, later in zip(best, (distance, speaker), shifted, strict=True)
        ]
        return new[0], new[1]

    empty = jnp.full((spec.num_agents, slots), jnp.inf, jnp.float32)
    away, who = near.visit(insert, (empty, jnp.full(empty.shape, spec.num_agents, jnp.int32)))
    return jnp.where(jnp.isfinite(away), who, NOBODY)


def _noisy(payload: jax.Array, who: jax.Array, state: SwarmState, params: SwarmParams) -> jax.Array:
    """Add noise to payloads (N, K, 4), by the Box-Muller transform, and clip them."""
    listener = jnp.broadcast_to(jnp.arange(len(who), dtype=jnp.int32)[:, None], who.shape)
    noise = []
    for k in range(PAYLOAD):
        one, two = (uniform(state.layout.key, state.step, listener, who, NOISE + 2 * k + part) for part in (0, 1))
        noise.append(jnp.sqrt(-2 * jnp.log(1 - one)) * jnp.cos(jnp.float32(2 * math.pi) * two))
    return jnp.clip(payload + params.comm_noise * jnp.stack(noise, axis=-1), -1.0, 1.0)


def uniform(key: Any, clock: Any, listener: Any, speaker: Any, purpose: int) -> Any:
    """Return numbers in [0, 1), float32, that follow from what they are for. Takes JAX arrays, or NumPy arrays alone.

    key: (2, ...) uint32.
    """
    mixed = mix(key[0] ^ mix(key[1] + clock.astype(np.uint32)))
    mixed = mix(mixed ^ mix(listener.astype(np.uint32) + np.uint32(purpose << 24)))
    return (mix(mixed + speaker.astype(np.uint32)) >> 8).astype(np.float32) * np.float32(2**-24)


def mix(x: Any) -> Any:
    """Return a hash of uint32 (Wellons 2018, "lowbias32")."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
