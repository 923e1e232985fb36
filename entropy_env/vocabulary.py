"""The words that robots know, and how to say one.

>>> from entropy_env import vocabulary
>>> action[2:] = vocabulary.say("FOUND_TARGET", [0.1, 0.0, 0.3, -0.2])
"""

from __future__ import annotations

import difflib
import enum
from typing import Any

import numpy as np

from entropy_env.types import PAYLOAD, TOKENS


class Word(enum.IntEnum):
    """Tokens with a name. Those from 13 to 31 are free."""

    SILENCE = 0
    HELP = 1
    DANGER = 2
    CARRYING = 3
    NEED_PICKUP = 4
    FOUND_RESOURCE = 5
    FOUND_ENEMY = 6
    FOUND_TARGET = 7
    GOING_TO = 8
    FOLLOWING = 9
    WAITING = 10
    ACKNOWLEDGE = 11
    NEGATIVE = 12


(
    SILENCE,
    HELP,
    DANGER,
    CARRYING,
    NEED_PICKUP,
    FOUND_RESOURCE,
    FOUND_ENEMY,
    FOUND_TARGET,
    GOING_TO,
    FOLLOWING,
    WAITING,
    ACKNOWLEDGE,
    NEGATIVE,
) = Word
__all__ = [
    "ACKNOWLEDGE",
    "CARRYING",
    "DANGER",
    "FOLLOWING",
    "FOUND_ENEMY",
    "FOUND_RESOURCE",
    "FOUND_TARGET",
    "GOING_TO",
    "HELP",
    "NEED_PICKUP",
    "NEGATIVE",
    "SILENCE",
    "WAITING",
    "Word",
    "name_of",
    "say",
    "token_of",
]


def token_of(word: str | int) -> int:
    """Return the token of a word, given by name or as a number from 0 to 31. Raises ValueError for any other."""
    if isinstance(word, str):
        if word not in Word.__members__:
            nearest = difflib.get_close_matches(word, Word.__members__, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"unknown word {word!r}: choose from {', '.join(Word.__members__)}, or a token{hint}")
        return int(Word[word])
    if isinstance(word, bool) or not isinstance(word, int | np.integer) or not 0 <= word < TOKENS:
        raise ValueError(f"unknown word {word!r}: a token is a whole number from 0 to {TOKENS - 1}")
    return int(word)


def name_of(token: int) -> str:
    """Return the name of a token, or its number where it has none. Raises ValueError for what is no token."""
    token = token_of(token)
    return Word(token).name if token in Word.__members__.values() else str(token)


def say(word: str | int, payload: Any = (0.0, 0.0, 0.0, 0.0)) -> np.ndarray:
    """Return the 36 numbers of an action that say a word, float32: scores of +1 and -1, and the payload.

    payload: 4 numbers in [-1, 1]. Raises ValueError for an unknown word, and for a payload of another size, out of range or
    not finite.
    """
    token = token_of(word)
    try:
        with np.errstate(over="ignore"):
            told = np.asarray(payload, np.float32)
    except (TypeError, ValueError):
        told = np.array(None)
    if told.shape != (PAYLOAD,):
        raise ValueError(f"{payload=} must be {PAYLOAD} numbers")
    if not np.all(np.isfinite(told) & (np.abs(told) <= 1)):
        raise ValueError(f"{payload=} must be {PAYLOAD} finite numbers from -1 to 1")
    scores = np.full(TOKENS, -1, np.float32)
    scores[token] = 1
    return np.concatenate([scores, told])
