"""`entropy_env.comms` in compiled loops, agent by agent: what is said, who is meant, and who hears it."""

from __future__ import annotations

import math

import numpy as np

from entropy_env import comms
from entropy_env.comms import DROP, NOBODY, NOISE
from entropy_env.engines.numba_engine.cells import rows_around, run_in_row
from entropy_env.engines.numba_engine.compilation import inlined, spliced
from entropy_env.engines.numba_engine.geometry import INFINITE, ONE, TURN, TWO, ZERO, clipped, cos_sin
from entropy_env.types import HEARD, PAYLOAD, TOKENS

CONE_SQUARE, ENOUGH, LAST_TOKEN = np.float32(comms.CONE**2), np.float32(comms.ENOUGH), np.float32(TOKENS - 1)
LEAST = np.float32(comms.LEAST)
MIX = tuple(np.uint32(number) for number in (0x7FEB352D, 0x846CA68B))
HALF_WORD, SHORT, TOP = np.uint32(16), np.uint32(15), np.uint32(8)  # bits
ULP = np.float32(2**-24)


@inlined
def mix(x):
    """A hash of uint32, as `comms.mix`. Numba makes 64-bit numbers of all sums and products."""
    x = np.uint32((x ^ (x >> HALF_WORD)) * MIX[0])
    x = np.uint32((x ^ (x >> SHORT)) * MIX[1])
    return np.uint32(x ^ (x >> HALF_WORD))


@inlined
def hash_of_listener(key, clock, i, purpose):
    """What `uniform` needs to know of a listener. key: (2,) uint32."""
    mixed = mix(np.uint32(key[0] ^ mix(np.uint32(key[1] + np.uint32(clock)))))
    return mix(np.uint32(mixed ^ mix(np.uint32(np.uint32(i) + np.uint32(purpose << 24)))))


@inlined
def uniform(of_listener, speaker):
    """A number in [0, 1), as `comms.uniform`."""
    return np.float32(mix(np.uint32(of_listener + np.uint32(speaker))) >> TOP) * ULP


@inlined
def delay(p, longest):
    """How many steps old the words are that arrive now, beyond the last. longest: how many are kept."""
    return min(max(p.comm_delay, 0), longest - 1)


@spliced
def forget(w, e, i):
    """Make an agent one who has said nothing."""
    talk = w.talk
    talk.token[e, i, :] = 0
    talk.payload[e, i, :, :] = ZERO
    talk.pose[e, i, :, :] = ZERO
    talk.to[e, i, :] = NOBODY
    talk.credit[e, i] = ONE


@spliced
def speak(w, p, said, e, i):
    """Note what an agent says, and where it stands as it speaks. said: of the action, TOKENS scores and a payload."""
    talk, me, limited = w.talk, w.agents[e, i], p.comm_rate > ZERO
    credit = talk.credit[e, i] + p.comm_rate * p.dt
    token, highest = 0, said[0] if math.isfinite(said[0]) else ZERO
    for k in range(1, TOKENS):
        score = said[k] if math.isfinite(said[k]) else ZERO
        if score > highest:
            token, highest = k, score
    if not me.active or (limited and credit < ENOUGH):
        token = 0
    spoken = ONE if token > 0 else ZERO
    for old in range(talk.token.shape[2] - 1, 0, -1):
        talk.token[e, i, old] = talk.token[e, i, old - 1]
        for k in range(PAYLOAD):
            talk.payload[e, i, old, k] = talk.payload[e, i, old - 1, k]
        for k in range(3):
            talk.pose[e, i, old, k] = talk.pose[e, i, old - 1, k]
    for old in range(talk.to.shape[2] - 1, 0, -1):
        talk.to[e, i, old] = talk.to[e, i, old - 1]
    talk.token[e, i, 0], talk.spoken[e, i] = token, spoken
    payload, pose = talk.payload[e, i, 0], talk.pose[e, i, 0]
    for k in range(PAYLOAD):
        payload[k] = clipped(said[TOKENS + k])
    pose[0], pose[1], pose[2] = me.position[0], me.position[1], me.heading
    talk.credit[e, i] = min(max(credit - spoken, ZERO), ONE) if limited else ONE


@spliced
def aim(w, p, e, i):
    """Find for whom the word of an agent is: the nearest of those sorted into cells, in the direction it points in."""
    talk, me, payload = w.talk, w.agents[e, i], w.talk.payload[e, i, 0]
    best, nearest = NOBODY, INFINITE
    size = max(abs(payload[0]), abs(payload[1]))
    if talk.token[e, i, 0] > 0 and size >= LEAST:
        x, y, ahead, left = me.position[0], me.position[1], payload[0] / size, payload[1] / size
        cos, sin = cos_sin(me.heading)
        to_x, to_y = ahead * cos - left * sin, ahead * sin + left * cos
        narrow = CONE_SQUARE * (to_x * to_x + to_y * to_y)
        for row in range(*rows_around(w, e, y)):
            start, stop = run_in_row(w, e, row, x)
            for k in range(start, stop):
                j, dx, dy = w.sorted_agent[e, k], w.sorted_x[e, k] - x, w.sorted_y[e, k] - y
                away, along = dx * dx + dy * dy, dx * to_x + dy * to_y
                closer = away < nearest or (away == nearest and j < best)
                near = closer and j != i and away <= p.comm_range * p.comm_range
                if near and along >= ZERO and along * along >= narrow * away:
                    best, nearest = j, away
    talk.to[e, i, 0] = best


@spliced
def is_wanted(w, e, i, old):
    """Whether an agent is in the world, and has said a word so many steps ago. -1: whatever it has said."""
    return w.agents[e, i].active and (old < 0 or w.talk.token[e, i, old] > 0)


@spliced
def is_for(w, p, choices, of_listener, old, e, i, j):
    """Whether agent i may hear j, who is near enough. old: the age of its word."""
    if choices.targeted and w.talk.to[e, j, old] != i:
        return False
    if choices.same_team and w.maps.team[e, i] != w.maps.team[e, j]:
        return False
    return p.comm_drop <= ZERO or uniform(of_listener, j) >= p.comm_drop


@spliced
def listen(w, p, choices, slot, e, i):
    """Find whom an agent hears, among the speakers sorted into cells, nearest first. Returns how many there are."""
    heard, distances, old = w.talk.heard[slot], w.talk.away[slot], delay(p, w.talk.token.shape[2])
    x, y, most, count = w.agents[e, i].position[0], w.agents[e, i].position[1], heard.shape[0], 0
    limit = p.comm_range * p.comm_range
    of_listener = hash_of_listener(w.maps.key[e], w.worlds[e].step, i, DROP) if p.comm_drop > ZERO else np.uint32(0)
    for row in range(*rows_around(w, e, y)):
        start, stop = run_in_row(w, e, row, x)
        for k in range(start, stop):
            dx, dy = w.sorted_x[e, k] - x, w.sorted_y[e, k] - y
            away = dx * dx + dy * dy
            if away <= limit:
                j = w.sorted_agent[e, k]
                full = count == most
                if full and (away > distances[most - 1] or (away == distances[most - 1] and j > heard[most - 1])):
                    continue
                if j == i or not is_for(w, p, choices, of_listener, old, e, i, j):
                    continue
                place = most - 1 if full else count
                while place > 0 and (
                    away < distances[place - 1] or (away == distances[place - 1] and j < heard[place - 1])
                ):
                    distances[place], heard[place] = distances[place - 1], heard[place - 1]
                    place -= 1
                distances[place], heard[place] = away, j
                count = min(count + 1, most)
                if count == most:
                    limit = distances[most - 1]
    return count


@inlined
def noise(key, clock, i, j, k):
    """What the way adds to the k-th number of a payload, over `comm_noise`, as the JAX side's `_noisy`."""
    one = uniform(hash_of_listener(key, clock, i, NOISE + 2 * k), j)
    two = uniform(hash_of_listener(key, clock, i, NOISE + 2 * k + 1), j)
    return np.float32(math.sqrt(-TWO * np.float32(math.log(ONE - one)))) * cos_sin(TURN * two)[0]


@spliced
def inbox(w, p, choices, row, cos, sin, slot, e, i):
    """Write what an agent hears into row (9 K,), as the JAX side's `hear`."""
    talk, me, old, count = w.talk, w.agents[e, i], delay(p, w.talk.token.shape[2]), 0
    if me.active:
        count = listen(w, p, choices, slot, e, i)
    for place in range(count):
        j, first = talk.heard[slot, place], HEARD * place
        pose, payload = talk.pose[e, j, old], talk.payload[e, j, old]
        dx, dy = pose[0] - me.position[0], pose[1] - me.position[1]
        row[first] = min(max((dx * cos + dy * sin) / p.comm_range, -ONE), ONE)
        row[first + 1] = min(max((dy * cos - dx * sin) / p.comm_range, -ONE), ONE)
        row[first + 2], row[first + 3] = cos_sin(pose[2] - me.heading)
        row[first + 4] = np.float32(talk.token[e, j, old]) / LAST_TOKEN
        for k in range(PAYLOAD):
            row[first + 5 + k] = payload[k]
            if p.comm_noise > ZERO:
                row[first + 5 + k] = min(
                    max(payload[k] + p.comm_noise * noise(w.maps.key[e], w.worlds[e].step, i, j, k), -ONE), ONE
                )
    for k in range(HEARD * count, len(row)):
        row[k] = ZERO
