import re

import numpy as np
import pytest

from entropy_env import vocabulary
from entropy_env.types import PAYLOAD, TOKENS
from entropy_env.vocabulary import Word, name_of, say, token_of

NAMES = [
    "SILENCE",
    "HELP",
    "DANGER",
    "CARRYING",
    "NEED_PICKUP",
    "FOUND_RESOURCE",
    "FOUND_ENEMY",
    "FOUND_TARGET",
    "GOING_TO",
    "FOLLOWING",
    "WAITING",
    "ACKNOWLEDGE",
    "NEGATIVE",
]


def test_words_have_the_tokens_from_0_to_12():
    assert {word.name: int(word) for word in Word} == {name: token for token, name in enumerate(NAMES)}
    assert vocabulary.FOUND_TARGET == 7
    assert set(NAMES) < set(vocabulary.__all__)


@pytest.mark.parametrize("word", ["FOUND_TARGET", 7, np.int64(7), np.uint8(7), Word.FOUND_TARGET])
def test_a_word_is_given_by_name_or_by_number(word):
    assert token_of(word) == 7
    assert type(token_of(word)) is int
    assert name_of(token_of(word)) == "FOUND_TARGET"


def test_tokens_without_a_name_are_called_by_their_number():
    assert [name_of(token) for token in range(TOKENS)] == NAMES + [str(token) for token in range(13, TOKENS)]


@pytest.mark.parametrize("token", range(TOKENS))
def test_what_is_said_has_its_token_highest_and_the_payload_behind(token):
    said = say(token, [0.1, -1, 1, 0])
    assert said.shape == (TOKENS + PAYLOAD,)
    assert said.dtype == np.float32
    assert np.flatnonzero(said[:TOKENS] == 1).tolist() == [token]
    assert np.sum(said[:TOKENS] == -1) == TOKENS - 1
    np.testing.assert_array_equal(said[TOKENS:], np.array([0.1, -1, 1, 0], np.float32))
    assert not say(token)[TOKENS:].any()


@pytest.mark.parametrize("word", [-1, 32, 1.0, True, None, b"HELP", np.float32(2), [1]])
def test_what_is_no_token_is_refused(word):
    with pytest.raises(
        ValueError, match=rf"unknown word {re.escape(repr(word))}: a token is a whole number from 0 to 31"
    ):
        token_of(word)
    for ask in (say, name_of):
        with pytest.raises(ValueError, match="unknown word"):
            ask(word)


@pytest.mark.parametrize(("word", "hint"), [("FOUND_TARGT", "; did you mean 'FOUND_TARGET'"), ("help", ""), ("", "")])
def test_an_unknown_name_is_refused_with_all_that_are_known(word, hint):
    with pytest.raises(
        ValueError, match=rf"unknown word '{word}': choose from SILENCE, HELP, .*NEGATIVE, or a token{hint}"
    ):
        say(word)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([0, 0, 0], "must be 4 numbers"),
        ([0] * 5, "must be 4 numbers"),
        (0.5, "must be 4 numbers"),
        ([[0, 0], [0, 0]], "must be 4 numbers"),
        ("here", "must be 4 numbers"),
        ([0, "x", 0, 0], "must be 4 numbers"),
        ([0, [1], 0, 0], "must be 4 numbers"),
        ([0, 0, 1.01, 0], "must be 4 finite numbers from -1 to 1"),
        ([0, -2, 0, 0], "must be 4 finite numbers from -1 to 1"),
        ([np.nan, 0, 0, 0], "must be 4 finite numbers from -1 to 1"),
        ([0, 0, 0, np.inf], "must be 4 finite numbers from -1 to 1"),
        ([0, 0, 0, 1e300], "must be 4 finite numbers from -1 to 1"),
    ],
)
def test_a_payload_of_another_size_or_out_of_range_is_refused(payload, message):
    with pytest.raises(ValueError, match=message) as caught:
        say("HELP", payload)
    assert str(caught.value).startswith(f"payload={payload!r} ")
