"""`entropy_env.comms` in compiled loops, agent by agent: what is said, who is meant, and who hears it."""

from __future__ import annotations

import math
from typing import NamedTuple

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
MAGNITUDE, NOT_FINITE = 2**31 - 1, 0x7F800000  # bits of a float32
BITS, WHO = 32, 2**32 - 1  # of a number that holds two


class Ears(NamedTuple):
    """What hearing needs of `Swarms`, by the names there. To hand over all its arrays would take long."""

    agents: np.ndarray
    worlds: np.ndarray
    key: np.ndarray
    team: np.ndarray
    cell_end: np.ndarray
    sorted_agent: np.ndarray
    sorted_x: np.ndarray
    sorted_y: np.ndarray
    token: np.ndarray
    to: np.ndarray
    arriving: np.ndarray
    near: np.ndarray
    nearest: np.ndarray


@spliced
def ears(w):
    """What hearing needs."""
    cells, talk = (w.cell_end, w.sorted_agent, w.sorted_x, w.sorted_y), w.talk
    said = talk.token, talk.to, talk.arriving, talk.near, talk.nearest
    return Ears(w.agents, w.worlds, w.maps.key, w.maps.team, *cells, *said)


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


@inlined
def rank(score):
    """A score as a whole number of the same order: its bits, without a sign of zero. 0 for what is not finite."""
    bits = np.float32(score).view(np.int32)
    size = bits & MAGNITUDE
    size = size if size < NOT_FINITE else 0
    return -size if bits < 0 else size


@spliced
def speak(w, p, said, e, i):
    """Note what an agent says, and where it stands as it speaks. said: of the action, TOKENS scores and a payload."""
    talk, me, limited = w.talk, w.agents[e, i], p.comm_rate > ZERO
    credit = talk.credit[e, i] + p.comm_rate * p.dt
    highest = rank(said[0]) << BITS | (TOKENS - 1)  # one number of score and token, the lowest token being the best
    for k in range(1, TOKENS):
        highest = max(highest, rank(said[k]) << BITS | (TOKENS - 1 - k))
    token = TOKENS - 1 - (highest & WHO)
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
def gather(w, p, e):
    """Put each word that arrives together, as a slot of an inbox has it, in the world's frame and not over `comm_range`.

    Where there is one cell only, this also sorts the speakers into it.
    """
    talk, old, count = w.talk, delay(p, w.talk.token.shape[2]), 0
    for j in range(w.agents.shape[1]):
        if is_wanted(w, e, j, old):
            slot, pose = talk.arriving[e, j], talk.pose[e, j, old]
            slot[0], slot[1] = pose[0], pose[1]
            slot[2], slot[3] = cos_sin(pose[2])
            slot[4] = np.float32(talk.token[e, j, old]) / LAST_TOKEN
            for k in range(PAYLOAD):
                slot[5 + k] = talk.payload[e, j, old, k]
            me = w.agents[e, j]
            if w.cell_end.shape[1] == 1:
                w.sorted_agent[e, count], w.sorted_x[e, count], w.sorted_y[e, count] = j, me.position[0], me.position[1]
                count += 1
    if w.cell_end.shape[1] == 1:
        w.cell_end[e, 0] = count


@spliced
def is_for(w, p, choices, of_listener, old, e, i, j):
    """Whether agent i may hear j, who is near enough. w: `Ears`. old: the age of its word."""
    if choices.targeted and w.to[e, j, old] != i:
        return False
    if choices.same_team and w.team[e, i] != w.team[e, j]:
        return False
    return p.comm_drop <= ZERO or uniform(of_listener, j) >= p.comm_drop


@spliced
def listen(w, p, choices, slot, e, i):
    """Find whom an agent hears, among the speakers sorted into cells. Returns how many there are. w: `Ears`.

    How far one is and who it is are one number, so that ties go by index, and few branches depend on distances.
    """
    x, y = w.agents[e, i].position[0], w.agents[e, i].position[1]
    near, nearest = w.near[slot], w.nearest[slot]
    limit, old, all_hear = p.comm_range * p.comm_range, delay(p, w.token.shape[2]), p.comm_drop <= ZERO
    all_hear &= not choices.targeted and not choices.same_team
    of_listener = np.uint32(0) if all_hear else hash_of_listener(w.key[e], w.worlds[e].step, i, DROP)
    found, count, most = 0, 0, len(nearest)
    for row in range(*rows_around(w, e, y)):
        start, stop = run_in_row(w, e, row, x)
        xs, ys, agents = w.sorted_x[e, start:stop], w.sorted_y[e, start:stop], w.sorted_agent[e, start:stop]
        for k in range(stop - start):
            dx, dy, j = xs[k] - x, ys[k] - y, np.int64(agents[k])
            away = dx * dx + dy * dy
            near[found] = np.int64(np.float32(away).view(np.int32)) << BITS | j
            heard = away <= limit and j != i
            if not all_hear:
                heard = heard and is_for(w, p, choices, of_listener, old, e, i, j)
            found += heard
    for k in range(found):
        this = near[k]
        if count == most and this > nearest[most - 1]:
            continue
        for place in range(count):
            nearest[place], this = min(nearest[place], this), max(nearest[place], this)
        if count < most:
            nearest[count] = this
            count += 1
    return count


@inlined
def noise(key, clock, i, j, k):
    """What the way adds to the k-th number of a payload, over `comm_noise`, as the JAX side's `_noisy`."""
    one = uniform(hash_of_listener(key, clock, i, NOISE + 2 * k), j)
    two = uniform(hash_of_listener(key, clock, i, NOISE + 2 * k + 1), j)
    return np.float32(math.sqrt(-TWO * np.float32(math.log(ONE - one)))) * cos_sin(TURN * two)[0]


@spliced
def inbox(w, p, choices, row, cos, sin, slot, e, i):
    """Write what an agent hears into row (9 K,), as the JAX side's `hear`. w: `Ears`."""
    me, nearest, count = w.agents[e, i], w.nearest[slot], 0
    if me.active and len(nearest):
        count = listen(w, p, choices, slot, e, i)
    x, y, comm_range, loud = me.position[0], me.position[1], p.comm_range, p.comm_noise
    for place in range(count):
        j, first = nearest[place] & WHO, HEARD * place
        word = w.arriving[e, j]
        dx, dy, facing_x, facing_y = word[0] - x, word[1] - y, word[2], word[3]
        row[first] = min(max((dx * cos + dy * sin) / comm_range, -ONE), ONE)
        row[first + 1] = min(max((dy * cos - dx * sin) / comm_range, -ONE), ONE)
        row[first + 2] = min(max(facing_x * cos + facing_y * sin, -ONE), ONE)
        row[first + 3] = min(max(facing_y * cos - facing_x * sin, -ONE), ONE)
        for k in range(4, HEARD):
            row[first + k] = word[k]
        if loud > ZERO:
            for k in range(PAYLOAD):
                told = word[5 + k] + loud * noise(w.key[e], w.worlds[e].step, i, j, k)
                row[first + 5 + k] = min(max(told, -ONE), ONE)
    for k in range(HEARD * count, len(row)):
        row[k] = ZERO
