"""What pictures show of words: who hears whom, colours, the shapes of glows and lines, and free places for text."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from entropy_env.comms import DROP, NOBODY, uniform
from entropy_env.types import TOKENS, SwarmSpec
from entropy_env.vocabulary import name_of

BEND = 0.13  # of a line, sideways, over its length: lines there and back lie apart, and no line hides one to a goal
PLACES = np.linspace(0.0, 1.0, 10)[:, None]  # on a line, from its speaker to its listener


def who_hears(state: Any, params: Any, spec: SwarmSpec) -> np.ndarray:
    """Return whom each agent hears, (N, comm_neighbours), as `comms.heard` does, but without compiling anything.

    state, params: of a single world, with NumPy leaves.
    """
    words, (x, y) = state.words, state.position.T
    late = min(max(int(params.comm_delay), 0), words.token.shape[1] - 1)
    me = np.arange(len(x))
    away = (x[None] - x[:, None]) ** 2 + (y[None] - y[:, None]) ** 2
    heard = state.active[:, None] & (state.active & (words.token[:, late] > 0))[None] & (me[:, None] != me[None])
    heard &= away <= np.square(np.float32(params.comm_range))
    if words.to is not None:
        heard &= words.to[None, :, late] == me[:, None]
    if spec.comm_channel == "team":
        heard &= state.layout.team[None] == state.layout.team[:, None]
    if params.comm_drop > 0:
        key = np.asarray(state.layout.key)[:, None, None]
        heard &= uniform(key, state.step, me[:, None], me[None], DROP) >= np.float32(params.comm_drop)
    order = np.argsort(np.where(heard, away, np.inf), axis=1, kind="stable")[:, : spec.comm_neighbours]
    who = np.where(np.take_along_axis(heard, order, axis=1), order, NOBODY)
    return np.pad(who, ((0, 0), (0, spec.comm_neighbours - who.shape[1])), constant_values=NOBODY)


def check_attention(attention: Any, state: Any, spec: SwarmSpec | None) -> np.ndarray:
    """Return the weights (N, K) that listeners give to what they hear. Raises ValueError for what is none."""
    if spec is None or state.words is None:
        raise ValueError("attention needs words and spec, the SwarmSpec of robots that talk")
    weights, expected = np.asarray(attention), (spec.num_agents, spec.comm_neighbours)
    if weights.shape != expected:
        raise ValueError(f"attention has shape {weights.shape}, not {expected}")
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ValueError(f"attention must be finite and at least 0: its lowest number is {weights.min()}")
    return weights


@functools.lru_cache(maxsize=64)
def glow(radius: int, colour: tuple[int, int, int]) -> tuple[bytes, int]:
    """Return a glow around a robot of this radius, px, as BGRA bytes of a square, and the square's side.

    The canvas has this order too, so pygame draws it seven times faster than RGBA.
    """
    reach = round(2.4 * radius)
    across = np.arange(-reach, reach + 1)
    distance = np.hypot(across[:, None], across[None]) / radius
    fade = np.clip((reach / radius - distance) / (reach / radius - 1), 0.0, 1.0)
    pixels = np.empty((*distance.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour[::-1], np.rint(235 * fade**1.3)
    return pixels.tobytes(), len(across)


def arcs(start: np.ndarray, end: np.ndarray, most: float) -> np.ndarray:
    """Return points (L, 10, 2) px of lines from start to end, (L, 2) px each, that bend to the left by up to `most` px."""
    along = (end - start).astype(float)
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    aside = np.minimum(BEND, most / np.maximum(length, 1e-9)) * np.stack([along[:, 1], -along[:, 0]], axis=-1)
    return start[:, None] + PLACES * along[:, None] + 4 * PLACES * (1 - PLACES) * aside[:, None]


def free_place(size: tuple[int, int], place: tuple[int, int], gap: int, taken: Iterable[Any], room: Any) -> Any:
    """Return a Rect for text of this size near a place, px: above it, or else where it hides least of what is `taken`.

    gap: px from the place to the text. room: a Rect that the text stays in. taken: Rects.
    """
    (width, height), (x, y), taken = size, place, list(taken)
    aside = gap + width // 2
    best, least = None, np.inf
    for dx, dy in ((0, -1), (0, 1), (0.5, -1), (-0.5, -1), (0.5, 1), (-0.5, 1), (1, 0), (-1, 0), (0, -2.1), (0, 2.1)):
        rect = room.copy()
        rect.size = width, height
        rect.center = x + round(dx * aside), y + round(dy * (gap + height / 2))
        rect.clamp_ip(room)
        hidden = (rect.clip(taken[i]) for i in rect.collidelistall(taken))
        cost = sum(other.width * other.height for other in hidden)
        if cost < least:
            best, least = rect, cost
        if not cost:
            break
    return best


@functools.cache
def names() -> tuple[str, ...]:
    """Return the name of every token."""
    return tuple(name_of(token) for token in range(TOKENS))
