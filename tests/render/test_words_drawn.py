"""Pictures of robots that talk: who speaks, what, and who hears it."""

import jax
import numpy as np
import pytest
from helpers.frames import locate, near, world

from entropy_env import Swarm, SwarmSpec, vocabulary
from entropy_env.render import Renderer
from entropy_env.render.scene import ALERT, WALL, WORDY, as_numpy, token_colours
from entropy_env.render.words import free_place, names, who_hears
from entropy_env.types import SwarmParams, Words

pygame = pytest.importorskip("pygame")

PARAMS = SwarmParams()
HELP, TARGET = int(vocabulary.Word.HELP), int(vocabulary.Word.FOUND_TARGET)


def talking(positions, tokens, history=0, **fields):
    """A world in which each robot has said tokens, (N,) or the newest first (N, H)."""
    state = world(positions, **fields)
    said = np.array(tokens, np.int32).reshape(len(positions), -1)
    said = np.pad(said, ((0, 0), (0, history + 1 - said.shape[1])))
    words = Words(
        token=said,
        payload=np.zeros((*said.shape, 4), np.float32),
        pose=np.zeros((*said.shape, 3), np.float32),
        to=None,
        credit=np.ones(len(said), np.float32),
    )
    return state.replace(words=words)


def draw(state, neighbours=4, params=PARAMS, renderer=None, **options):
    spec = SwarmSpec(num_agents=len(state.position), comm_neighbours=neighbours)
    return (renderer or Renderer()).draw(state, params, spec=spec, **options)


def changed(frame, other):
    return (frame != other).any(axis=-1)


def hue(colours):
    """Unit vectors of what a colour has beyond grey, (..., 3)."""
    beyond = colours - colours.mean(axis=-1, keepdims=True)
    return beyond / np.maximum(np.linalg.norm(beyond, axis=-1, keepdims=True), 1e-9)


def of_token(frame, token, least=20):
    """Which pixels have the hue of a token, also faintly, (H, W) bool."""
    frame, colour = frame.astype(float), token_colours()[token].astype(float)
    strong = frame.max(axis=-1) - frame.min(axis=-1) >= least
    return strong & (hue(frame) @ hue(colour) > 0.97)


@pytest.mark.parametrize("options", [{}, {"trails": 3}, {"max_size": (320, 240)}])
def test_robots_that_cannot_talk_and_robots_that_are_silent_look_the_same(options):
    silent = talking([[2, 2], [6, 4]], [0, 0])
    plain = Renderer(**options).draw(world([[2, 2], [6, 4]]), PARAMS)
    np.testing.assert_array_equal(draw(silent, renderer=Renderer(**options)), plain)
    np.testing.assert_array_equal(Renderer(**options).draw(silent, PARAMS), plain)


def test_a_word_changes_the_picture_around_its_speaker_alone():
    places = [[2, 2], [6, 4]]
    plain = draw(world(places))
    (row, column), (other_row, other_column) = locate(plain, 0, 2), locate(plain, 1, 2)
    frame = Renderer().draw(talking(places, [HELP, 0]), PARAMS)
    rows, columns = np.nonzero(changed(frame, plain))
    assert np.hypot(rows - row, columns - column).max() < 60
    assert np.hypot(rows - other_row, columns - other_column).min() > 60
    assert of_token(frame, HELP)[row - 20 : row + 20, column - 20 : column + 20].sum() > 300


def test_the_aura_has_the_colour_of_the_newest_word():
    for tokens, shown in (([[HELP, TARGET]], HELP), ([[TARGET, HELP]], TARGET)):
        frame = draw(talking([[4, 3]], tokens, history=1, goals=[[1, 1]]))
        row, column = locate(draw(world([[4, 3]])), 0, 1)
        ring = frame[row + 15, column]  # below, where no text is
        assert hue(ring.astype(float)) @ hue(token_colours()[shown].astype(float)) > 0.97
    plain = draw(world([[4, 3]]))
    np.testing.assert_array_equal(draw(talking([[4, 3]], [[0, HELP]], history=1)), plain)


def test_tokens_have_colours_of_their_own_and_none_is_that_of_a_contact():
    colours = token_colours().astype(int)[1:]
    apart = np.abs(colours[:, None] - colours).sum(axis=-1) + 1000 * np.eye(31)
    assert apart.min() > 20 and apart[:12, :12].min() > 30
    assert np.abs(colours - ALERT).sum(axis=-1).min() > 110


def written(frame, plain):
    """Rows and columns of the ink of letters that the plain frame lacks."""
    return np.nonzero((frame.max(axis=-1) < 150) & (plain.max(axis=-1) >= 150))


def test_the_word_stands_above_its_speaker():
    plain, frame = draw(world([[4, 3]])), draw(talking([[4, 3]], [TARGET]))
    row, column = locate(plain, 0, 1)
    rows, columns = written(frame, plain)
    assert len(rows) > 100
    assert row - 40 < rows.min() and rows.max() < row - 10
    assert (columns.min() + columns.max()) / 2 == pytest.approx(column, abs=4)
    short = written(draw(talking([[4, 3]], [HELP])), plain)[1]
    assert np.ptp(columns) > 2 * np.ptp(short)


def test_what_is_written_is_the_name_of_the_word():
    assert names()[:3] == ("SILENCE", "HELP", "DANGER") and names()[TARGET] == "FOUND_TARGET" and names()[31] == "31"
    one, other = draw(talking([[4, 3]], [13])), draw(talking([[4, 3]], [14]))
    assert changed(one, other).any()


@pytest.mark.parametrize("place", [(0.1, 0.1), (7.9, 0.1), (0.1, 5.9), (7.9, 5.9), (4, 5.9), (7.9, 3)])
@pytest.mark.parametrize("size", [(960, 720), (480, 360)])
def test_words_are_not_clipped_at_the_border(place, size):
    def letters(place):
        plain = draw(world([place]), renderer=Renderer(max_size=size))
        frame = draw(talking([place], [TARGET]), renderer=Renderer(max_size=size))
        rows, columns = written(frame, plain)
        return np.ptp(rows), np.ptp(columns)

    assert letters(place) == pytest.approx(letters((4, 3)), abs=3)


def test_words_of_robots_side_by_side_stand_apart():
    room, taken = pygame.Rect(0, 0, 900, 700), []
    for x in (400, 422, 444):
        taken.append(free_place((90, 14), (x, 300), 16, taken, room))
    assert all(not one.colliderect(other) for i, one in enumerate(taken) for other in taken[:i])
    assert taken[0].bottom < 300
    full = free_place((90, 14), (5, 5), 16, [room], room)  # nowhere is free
    assert room.contains(full)


def test_labels_and_words_stand_apart():
    plain = draw(world([[4, 3]]))
    labelled = draw(world([[4, 3]]), labels=["17"])
    both = draw(talking([[4, 3]], [TARGET]), labels=["17"])
    label = written(labelled, plain)
    assert len(label[0]) > 10 and (both.max(axis=-1) < 170)[label].all()


def test_words_are_left_out_of_a_full_picture_and_listed_below_it():
    places = [[0.3 + 0.5 * (i % 15), 1 + i // 15] for i in range(WORDY + 1)]
    for count, below in ((WORDY, False), (WORDY + 1, True)):
        tokens = [TARGET] + [0] * (count - 1)
        plain, frame = draw(world(places[:count])), draw(talking(places[:count], tokens), neighbours=0)
        rows, _ = np.nonzero(changed(frame, plain))
        bottom = np.flatnonzero(near(plain, WALL).mean(axis=1) > 0.5).max()
        assert (rows > bottom).any() == below
        row, column = locate(plain, 0, count)
        assert of_token(frame, TARGET)[row - 20 : row + 20, column - 20 : column + 20].sum() > 100
        rows, columns = written(frame, plain)
        assert np.any((np.abs(rows - row) < 40) & (np.abs(columns - column) < 60)) != below


def test_many_robots_keep_their_auras_without_lines_and_words():
    places = np.random.default_rng(0).uniform(0.5, 5.5, (301, 2))
    frame = draw(talking(places, [TARGET] + [0] * 300))
    rows, _ = np.nonzero(changed(frame, draw(world(places))))
    assert 0 < len(rows) < 3000


def middle(frame, one, other, num_agents):
    """A box of 50 px around the middle between two robots."""
    (row, column), (other_row, other_column) = locate(frame, one, num_agents), locate(frame, other, num_agents)
    row, column = (row + other_row) // 2, (column + other_column) // 2
    return slice(row - 50, row + 50), slice(column - 50, column + 50)


def test_lines_lead_from_the_speaker_to_all_who_hear_it():
    places = [[4, 5.5], [2, 3], [6, 3], [4, 0.5]]
    state = talking(places, [HELP, 0, 0, 0])
    plain, frame = draw(world(places)), draw(state, params=PARAMS.replace(comm_range=4.0))
    for listener, hears in ((1, True), (2, True), (3, False)):
        assert changed(frame, plain)[middle(plain, 0, listener, 4)].any() == hears
    rows, columns = middle(plain, 1, 2, 4)
    assert not changed(frame, plain)[rows.start + 20 : rows.stop, columns].any()
    alone = Renderer().draw(state, PARAMS)  # without a specification
    assert not changed(alone, plain)[middle(plain, 0, 1, 4)].any()


def test_a_line_is_thicker_at_the_speaker():
    for tokens, speaker in (([HELP, 0], 0), ([0, HELP], 1)):
        places = [[1, 3], [7, 3]]
        plain, frame = draw(world(places)), draw(talking(places, tokens), params=PARAMS.replace(comm_range=9.0))
        ends = [locate(plain, i, 2)[1] for i in (0, 1)]
        quarter = (ends[1] - ends[0]) // 4
        thick = [changed(frame, plain)[:, column].sum() for column in (ends[0] + quarter, ends[1] - quarter)]
        assert thick[speaker] > thick[1 - speaker] > 0


def test_attention_makes_lines_stronger():
    places = [[1, 3], [7, 5], [7, 1]]
    state, params = talking(places, [HELP, 0, 0]), PARAMS.replace(comm_range=9.0)
    plain = draw(world(places))

    def ink(weights):
        frame = draw(state, params=params, attention=np.array(weights)).astype(int)
        return [np.abs(frame - plain)[middle(plain, 0, listener, 3)].sum() for listener in (1, 2)]

    none = [[0.0] * 4]
    one, other = ink([*none, [0.9, 0, 0, 0], [0.1, 0, 0, 0]])
    assert one > 2 * other > 0
    assert ink([*none, [0.9, 0, 0, 0], [0.0] * 4])[1] == 0
    assert ink([*none, [0.1, 0, 0, 0], [0.9, 0, 0, 0]]) != [one, other]


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (np.zeros((2, 3)), r"attention has shape \(2, 3\), not \(2, 4\)"),
        (np.full((2, 4), -0.5), "at least 0: its lowest number is -0.5"),
        (np.full((2, 4), np.nan), "attention must be finite"),
    ],
)
def test_attention_that_makes_no_sense_is_refused(attention, message):
    with pytest.raises(ValueError, match=message):
        draw(talking([[2, 2], [6, 4]], [1, 1]), attention=attention)
    with pytest.raises(ValueError, match="attention needs words"):
        draw(world([[2, 2], [6, 4]]), attention=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="attention needs words"):
        Renderer().draw(talking([[2, 2], [6, 4]], [1, 1]), PARAMS, attention=np.zeros((2, 4)))


def test_a_robot_that_has_left_says_nothing_in_a_picture():
    places = [[2, 2], [6, 4]]
    gone = draw(world(places, active=[True, False]))
    np.testing.assert_array_equal(draw(talking(places, [0, HELP], active=[True, False])), gone)


def test_robots_far_outside_may_speak():
    places = [[4, 3], [1e12, 3]]
    assert np.array_equal(draw(talking(places, [0, HELP])), draw(world(places)))


def test_followed_robots_are_shown_with_the_words_in_view():
    places = [[2, 3], [2.5, 3], [7.5, 3]]
    plain = draw(world(places), focus=0)
    view, unseen = draw(talking(places, [HELP, TARGET, 0]), focus=0), draw(talking(places, [0, 0, TARGET]), 0, focus=0)
    assert len(written(view, plain)[0]) > 200
    np.testing.assert_array_equal(unseen, plain)


@pytest.mark.parametrize("channel", ["broadcast", "targeted", "team"])
@pytest.mark.parametrize("num_agents", [3, 12, 20])
def test_who_hears_is_as_in_the_simulator(channel, num_agents):
    spec = SwarmSpec(num_agents, comm_neighbours=5, comm_channel=channel, comm_history=2)
    env, rng, some = Swarm(spec), np.random.default_rng(num_agents), 0
    heard = jax.jit(env.heard)
    for step in range(8):
        position = rng.integers(0, 9, (num_agents, 2)) / 2  # with many equal distances
        tokens, heading = rng.integers(0, 3, (num_agents, 3)), np.zeros(num_agents, np.float32)
        state = talking(position, tokens, history=2, step=np.int32(step), heading=heading)
        to = rng.integers(-1, num_agents, (num_agents, 3)).astype(np.int32) if channel == "targeted" else None
        layout = state.layout.replace(key=rng.integers(0, 2**32, 2, np.uint32))
        if spec.teams:
            layout = layout.replace(team=rng.integers(0, 2, num_agents).astype(np.int32))
        state = state.replace(layout=layout, words=state.words.replace(to=to), active=rng.random(num_agents) < 0.8)
        for values in ({}, {"comm_delay": 2}, {"comm_drop": 0.4}):
            params = env.make_params(comm_range=3.0, **values)
            expected = np.asarray(heard(state, params))
            np.testing.assert_array_equal(who_hears(state, as_numpy(params), spec), expected)
            some += (expected >= 0).sum()
    assert some > 8


def test_each_robots_own_goal_is_shown_where_it_observes_another():
    state = world([[2, 2], [6, 4]], goals=[[2, 4], [6, 2]])
    spec = Swarm(SwarmSpec(num_agents=2), scenario="relay").spec
    np.testing.assert_array_equal(Renderer().draw(state, PARAMS, spec=spec), Renderer().draw(state, PARAMS))
