"""What robots say and hear once more: slow and obvious, in float64, one robot after another."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env import Swarm, SwarmSpec, comms
from entropy_env.scenarios.custom import Custom

TOKENS, PAYLOAD, NUMBERS = 32, 4, 9


@dataclasses.dataclass
class Word:
    token: int
    payload: list  # 4 numbers
    pose: tuple  # x, y (m) and heading (rad) of the speaker as it spoke
    to: int | None  # on the channel `targeted` the only robot that may hear it


@dataclasses.dataclass
class Talk:
    """Robots that talk. Each keeps what it has said, the latest word first, None for silence.

    channel: as `comm_channel`. team: of each robot. comm_range: m. delay: steps beyond the next. rate: words a second, 0 for
    no limit. dt: s.
    """

    num_agents: int
    neighbours: int
    channel: str = "broadcast"
    team: list | None = None
    comm_range: float = 5.0
    delay: int = 0
    rate: float = 0.0
    dt: float = 0.1

    def __post_init__(self):
        self.said = [[] for _ in range(self.num_agents)]
        self.bucket = [1.0] * self.num_agents  # words that each may still say

    def begin_again(self, robot):
        """It has said nothing in its new episode."""
        self.said[robot], self.bucket[robot] = [], 1.0

    def speak(self, position, heading, active, said):
        """Everybody speaks, or not. position: (N, 2) m. heading: (N,) rad. active: (N,). said: (N, 36), scores and payloads.

        Returns who did, (N,) bool.
        """
        spoken = np.zeros(self.num_agents, bool)
        for robot in range(self.num_agents):
            scores = [float(score) if math.isfinite(score) else 0.0 for score in said[robot][:TOKENS]]
            told = [float(number) if math.isfinite(number) else 0.0 for number in said[robot][TOKENS:]]
            token = scores.index(max(scores))
            payload = [min(max(number, -1.0), 1.0) for number in told]
            enough = True
            if self.rate > 0:
                self.bucket[robot] += self.rate * self.dt
                enough = self.bucket[robot] >= 1 - 1e-4
            word = None
            if active[robot] and token > 0 and enough:
                to = self._meant_for(robot, payload[:2], position, heading, active)
                word = Word(token, payload, (*map(float, position[robot]), float(heading[robot])), to)
                spoken[robot] = True
            self.bucket[robot] = min(max(self.bucket[robot] - spoken[robot], 0.0), 1.0)
            self.said[robot].insert(0, word)
        return spoken

    def _meant_for(self, speaker, direction, position, heading, active):
        """The nearest robot within 15 degrees of a direction in the speaker's frame, and within range."""
        if self.channel != "targeted" or not any(direction):
            return None
        pointing = heading[speaker] + math.atan2(direction[1], direction[0])
        found = []
        for robot in range(self.num_agents):
            dx, dy = position[robot] - position[speaker]
            off = math.remainder(math.atan2(dy, dx) - pointing, 2 * math.pi)
            if robot != speaker and active[robot] and abs(off) <= math.radians(15):
                found.append((math.hypot(dx, dy), robot))
        found = [(away, robot) for away, robot in found if away <= self.comm_range]
        return min(found)[1] if found else None

    def word_of(self, robot):
        """The word of a robot that arrives now, or None."""
        said = self.said[robot]
        return said[self.delay] if len(said) > self.delay else None

    def heard(self, position, active):
        """Whom each hears, nearest first: a list for each robot."""
        return [self._heard_by(listener, position, active) for listener in range(self.num_agents)]

    def _heard_by(self, listener, position, active):
        if not active[listener]:
            return []
        found = []
        for speaker in range(self.num_agents):
            word = self.word_of(speaker)
            if speaker == listener or not active[speaker] or word is None:
                continue
            if self.channel == "targeted" and word.to != listener:
                continue
            if self.channel == "team" and self.team is not None and self.team[speaker] != self.team[listener]:
                continue
            dx, dy = (
                float(there) - float(here) for there, here in zip(position[speaker], position[listener], strict=True)
            )
            if math.sqrt(dx * dx + dy * dy) <= self.comm_range:
                found.append((dx * dx + dy * dy, speaker))
        return [speaker for _, speaker in sorted(found)][: self.neighbours]

    def inboxes(self, position, heading, active):
        """What each hears, (N, K, 9), as the observation has it."""
        inboxes = np.zeros((self.num_agents, self.neighbours, NUMBERS))
        for listener, speakers in enumerate(self.heard(position, active)):
            for slot, speaker in enumerate(speakers):
                word = self.word_of(speaker)
                x, y, facing = word.pose
                ahead, left = turned(x - position[listener][0], y - position[listener][1], -heading[listener])
                offset = [min(max(each / self.comm_range, -1.0), 1.0) for each in (ahead, left)]
                turn = facing - heading[listener]
                inboxes[listener, slot] = [
                    *offset, math.cos(turn), math.sin(turn), word.token / 31, *word.payload
                ]  # fmt: skip
        return inboxes

    def slots(self, position, active):
        """Whom each hears, (N, K), -1 in empty slots."""
        rows = [speakers + [-1] * (self.neighbours - len(speakers)) for speakers in self.heard(position, active)]
        return np.array(rows)


def turned(x, y, angle):
    """A vector turned counter-clockwise, rad."""
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def place_told(inbox, pair, comm_range, scale):
    """Where the listener finds a place that the speaker tells in its own frame, (..., 2) m in the listener's frame.

    inbox: (..., 9). pair: of the payload, 0 or 1. scale: m, what the speaker has divided the place by.
    """
    cos, sin = inbox[..., 2], inbox[..., 3]
    x, y = inbox[..., 5 + 2 * pair] * scale, inbox[..., 6 + 2 * pair] * scale
    return inbox[..., :2] * comm_range + np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)


def random_words(rng, *shape):
    """Scores and payloads (*shape, 36); one robot in four is silent."""
    said = rng.uniform(-1, 1, (*shape, TOKENS + PAYLOAD))
    said[..., 0] = np.where(rng.random(shape) < 0.25, 2.0, -1.0)
    return said.astype(np.float32)


def words(token, payload=(0.0, 0.0, 0.0, 0.0)):
    """Scores and payloads (..., 36) that say tokens (...) with payloads (..., 4)."""
    token = np.asarray(token)
    scores = np.where(np.arange(TOKENS) == token[..., None], 1.0, -1.0)
    told = np.broadcast_to(np.asarray(payload, float), (*token.shape, PAYLOAD))
    return np.concatenate([scores, told], axis=-1).astype(np.float32)


def random_places(rng, num_agents):
    return rng.uniform(0, (8, 6), (num_agents, 2)).astype(np.float32), rng.uniform(-3.1, 3.1, num_agents).astype(
        np.float32
    )


@functools.cache
def talkers(num_agents, neighbours, channel="broadcast", history=0, search="dense"):
    """A simulator of robots that talk, how they speak, and what they then hear."""
    spec = SwarmSpec(
        num_agents, comm_neighbours=neighbours, comm_channel=channel, comm_history=history, neighbour_search=search
    )
    env = Swarm(spec, Custom())

    def speak(state, said, params):
        spoken, who = comms.speak(state, said, params, env.spec)
        return state.replace(words=spoken, step=state.step + 1), who

    def listen(state, params):
        return comms.hear(state, params, env.spec), comms.heard(state, params, env.spec)

    return env, jax.jit(speak), jax.jit(listen)


def in_team(state, team):
    return state.replace(layout=state.layout.replace(team=jnp.asarray(team, jnp.int32)))


def moved(state, position, heading, active):
    return state.replace(
        position=jnp.asarray(position, jnp.float32),
        heading=jnp.asarray(heading, jnp.float32),
        active=jnp.asarray(active),
    )
