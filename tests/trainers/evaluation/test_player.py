"""Watching policies: the keys of the window, and what it shows."""

import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.frames import locate, near, world

from entropy_env.render.scene import ALERT, INK, agent_colours
from entropy_env.task import Task
from entropy_env.types import SwarmParams, SwarmSpec
from trainers import evaluate
from trainers.evaluation.play import TimeStep, episode_key
from trainers.evaluation.player import HISTORY, REST, Player, Recording, Side
from trainers.learn.normalize import init_moments
from trainers.policies.jax import ActorSpec
from trainers.policies.load import describe_policy
from trainers.run.checkpoint import save_checkpoint

pygame = pytest.importorskip("pygame")

END = 40  # steps


def time_steps(key=None, end=END):
    """Two robots that pass each other on their way, in a place of the key's own."""
    y = 3 if key is None else 1 + 4 * float(jax.random.uniform(key))
    for step in range(end + 1):
        x = 0.5 + 0.1 * step
        goals = [[0.5 + 0.1 * end, y], [7.5, 5.5]]
        state = world([[x, y], [8 - x, y + 0.5]], goals, step=step, over=step == end, goals_reached=[step == end, 0])
        yield TimeStep(state, np.full((2, 8), 0.5, np.float32), np.array([0.25, 0.5]) * step)


def side(name="one", end=END, goals=None):
    def live(key, sampled):
        for time_step in time_steps(key, end):
            layout = time_step.state.layout
            given = layout if goals is None else layout.replace(goals=layout.goals + goals)
            yield time_step._replace(state=time_step.state.replace(layout=given))

    return Side(name, "open 1", SwarmSpec(num_rays=4), SwarmParams(), live)


@pytest.fixture
def make_player(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    players = []

    def make(*sides, **options):
        players.append(Player(sides or [side()], **options))
        players[-1].draw()
        pygame.event.clear()
        return players[-1]

    yield make
    for player in players:
        player.window.close()


def shown(player):
    return pygame.surfarray.array3d(player.window._canvas.to_surface()).swapaxes(0, 1)


def press(player, *keys):
    for key in keys:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key, unicode=""))
        pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))
    for event in player.window.events():
        player.handle(event)
    if not player.window.closed:
        player.draw()


def click(player, column, row):
    pygame.event.post(pygame.event.Event(pygame.MOUSEBUTTONDOWN, button=1, pos=(column, row)))
    press(player)


def test_a_recording_is_played_as_far_as_it_is_asked_for_and_forgets_what_is_long_ago():
    played = []
    recording = Recording(played.append(time_step) or time_step for time_step in time_steps(end=HISTORY + 50))
    assert len(played) == 1
    assert recording.at(7).state.step == 7 and len(played) == 8
    assert recording.at(3).state.step == 3 and len(played) == 8
    assert [int(state.step) for state in recording.before(5, 2)] == [3, 4]
    assert [int(state.step) for state in recording.before(2, 9)] == [0, 1]
    assert recording.at(HISTORY + 99).state.step == HISTORY + 50
    assert recording.oldest == 50
    assert recording.at(50).state.step == 50
    assert [int(state.step) for state in recording.before(51, 9)] == [50]


def test_space_pauses_and_goes_on(make_player):
    player = make_player()
    player.advance(0.5)
    assert player.step == 5
    press(player, pygame.K_SPACE)
    player.advance(0.5)
    assert player.step == 5 and near(shown(player)[-60:], ALERT).any()
    press(player, pygame.K_SPACE)
    player.advance(0.5)
    assert player.step == 10


def test_arrow_keys_step_and_go_back_to_the_same_picture(make_player):
    player = make_player()
    player.advance(0.5)
    press(player, pygame.K_RIGHT)
    assert player.step == 6 and player.paused
    before = shown(player)
    press(player, pygame.K_LEFT, pygame.K_LEFT)
    assert player.step == 4 and (shown(player) != before).any()
    press(player, pygame.K_RIGHT, pygame.K_RIGHT)
    np.testing.assert_array_equal(shown(player), before)
    press(player, *[pygame.K_LEFT] * 9)
    assert player.step == 0
    press(player, *[pygame.K_RIGHT] * (END + 5))
    assert player.step == END
    press(player, pygame.K_LEFT)
    assert player.step == END - 1


def test_an_arrow_key_that_is_held_down_repeats(make_player):
    player = make_player()
    player.handle(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT))
    player.advance(0.2)
    assert player.step == 1
    player.advance(0.4)
    assert player.step > 3
    player.handle(pygame.event.Event(pygame.KEYUP, key=pygame.K_RIGHT))
    step = player.step
    player.advance(1)
    assert player.step == step


@pytest.mark.parametrize(
    ("key", "steps"), [(pygame.K_PLUS, 8), (pygame.K_EQUALS, 8), (pygame.K_KP_PLUS, 8), (pygame.K_MINUS, 2)]
)
def test_plus_and_minus_change_the_speed(make_player, key, steps):
    player = make_player()
    press(player, key)
    player.advance(0.41)
    assert player.step == steps
    press(player, *[key] * 9)
    assert player.speed in (1 / 8, 16)


def test_the_character_that_is_typed_counts_whatever_the_keyboard(make_player):
    player = make_player()
    player.handle(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_1, unicode="+"))
    assert player.speed == 2


def test_r_takes_the_next_world_of_the_evaluation(make_player):
    asked, plain = [], side()
    watched = Side(
        "one",
        "open",
        plain.spec,
        plain.params,
        lambda key, sampled: asked.append((key, sampled)) or plain.live(key, sampled),
    )
    player = make_player(watched, seed=3, sampled=False)
    player.advance(0.5)
    press(player, pygame.K_r)
    assert player.step == 0
    for index, (key, sampled) in enumerate(asked):
        assert key == episode_key(3, index) and sampled is False
    assert len(asked) == 2


def test_the_next_world_follows_the_end_of_an_episode(make_player):
    player = make_player()
    player.advance(0.1 * (END + 5))
    player.advance(REST / 2)
    assert (player.step, player.world) == (END, 0)
    player.advance(REST)
    assert (player.step, player.world) == (0, 1)


@pytest.mark.parametrize("key", [pygame.K_l, pygame.K_t], ids=["lidar", "trails"])
def test_l_draws_the_lidar_and_t_hides_the_trails_until_pressed_again(make_player, key):
    player = make_player()
    press(player, *[pygame.K_RIGHT] * 8)
    before = shown(player)
    press(player, key)
    changed = (shown(player) != before).any(axis=-1)
    row, column = locate(before, 0, 2)
    assert changed[row - 30 : row + 31, column - 60 : column + 61].any()
    press(player, key)
    np.testing.assert_array_equal(shown(player), before)


def test_a_click_follows_a_robot_in_every_picture_until_one_beside_all_robots(make_player):
    player = make_player(side("one"), side("two"))
    before = shown(player)
    middle = before.shape[1] // 2
    row, column = locate(before[:, middle:], 1, 2)
    click(player, middle + column, row)
    assert player.followed == 1
    frame = shown(player)
    np.testing.assert_array_equal(frame[:row, :middle], frame[:row, middle:])
    assert near(frame, agent_colours(2)[1]).sum() > 2 * near(before, agent_colours(2)[1]).sum()
    press(player, *[pygame.K_RIGHT] * 3)
    assert player.followed == 1
    click(player, 5, 5)
    assert player.followed is None


def test_two_sides_stay_in_step_and_the_shorter_one_waits_at_its_end(make_player):
    player = make_player(side("long"), side("short", end=END))
    player._recordings[1] = Recording(time_steps(end=10))
    player.advance(0.1 * 25)
    assert [int(time_step.state.step) for time_step in player.time_steps] == [25, 10] and not player.over
    press(player, *[pygame.K_LEFT] * 16)
    assert [int(time_step.state.step) for time_step in player.time_steps] == [9, 9]
    press(player, pygame.K_SPACE)
    player.advance(0.1 * 40)
    assert [int(time_step.state.step) for time_step in player.time_steps] == [END, 10] and player.over


def test_success_steps_and_return_stand_below_each_side(make_player, monkeypatch):
    written, write = [], Player._write
    monkeypatch.setattr(
        Player,
        "_write",
        lambda self, canvas, row, words: written.append((row, words)) or write(self, canvas, row, words),
    )
    player = make_player(side("one"), side("two"))
    player.advance(0.1 * (END + 1))
    written.clear()
    player.draw()
    lines = {"".join(word for word, _ in words): row for row, words in written}
    figures = [line for line in lines if "success" in line]
    assert figures == ["success  50%      steps  40      return  15.00      ended"]
    assert {"one", "two"} <= set(lines) and lines["one"].right < lines["two"].left
    assert all("space pause" in text for text in (player.window.title, list(lines)[-1]))


def test_nothing_is_written_over_anything_else(make_player, monkeypatch):
    """Every row of letters has empty rows above and below."""
    player = make_player(side("x" * 200), side("gpqy"))
    press(player, pygame.K_SPACE)
    frame = shown(player)[-4 * 30 :]
    inked = (np.abs(frame.astype(int) - frame[0, 0]).max(axis=-1) > 40).any(axis=1)
    assert np.count_nonzero(np.diff(inked.astype(int)) == 1) == 4
    assert not (np.abs(frame.astype(int) - frame[0, 0]).max(axis=-1) > 40)[:, [0, 1, -2, -1]].any()


def test_escape_and_closing_the_window_end(make_player):
    for ending in ({"key": pygame.K_ESCAPE, "type": pygame.KEYDOWN}, {"type": pygame.QUIT}):
        player = make_player()
        pygame.event.post(pygame.event.Event(ending.pop("type"), ending))
        player.run()
        assert player.window.closed


def test_sides_of_different_worlds_are_refused(make_player):
    with pytest.raises(ValueError, match="one and two cannot play in the same worlds"):
        make_player(side("one"), side("two", goals=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "b"], "--against b needs --show"),
        (["--show", "--gif", "a.gif"], "--show writes nothing"),
    ],
)
def test_wishes_that_do_not_go_together_are_one_line_on_stderr(capsys, options, message):
    assert evaluate.main(["a", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_a_display_gif_is_named(monkeypatch, capsys):
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "none such")
    assert evaluate.main(["a", "--show"]) == 2
    error = capsys.readouterr().err
    assert "needs a display" in error and "--gif FILE" in error


TASK = Task.of(num_agents=3, num_rays=4, substeps=1)


def save_driver(folder, forward):
    """A run whose policy turns towards the goal and drives."""
    seen = SwarmSpec(num_rays=TASK.spec.num_rays)
    spec = ActorSpec(obs_dim=seen.obs_dim, action_dim=2, hidden_sizes=())
    kernel = np.zeros((seen.obs_dim, 2), np.float32)
    kernel[seen.slice("goal")] = forward * np.array([[20.0, 20.0], [-20.0, 20.0]])
    dense = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(2)}
    actor = {"params": {"MLP_0": {"Dense_0": dense}, "log_std": jnp.full(2, -5.0)}}
    tree = {"params": {"actor": actor}, "moments": init_moments(seen.obs_dim)}
    save_checkpoint(folder / "checkpoints", tree, step=1, metadata=describe_policy(spec, TASK))
    return folder


@pytest.fixture
def screen(tmp_path):
    """A virtual screen of 1600 x 1000 px."""
    missing = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    folder = tmp_path / "screen"
    folder.mkdir()
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1600x1000x24", "-fbdir", str(folder), "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        display = f":{server.stdout.readline().strip()}"
        hidden = ("WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
        environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"DISPLAY": display}
        yield SimpleNamespace(environment=environment, file=folder / "Xvfb_screen0")
        server.terminate()


def grab(screen):
    """(1000, 1600, 3) uint8, what is on it, from the X window dump that Xvfb keeps."""
    dump = screen.file.read_bytes()
    header = np.frombuffer(dump, ">u4", 25)
    height, line, colours = int(header[5]), int(header[12]), int(header[19])
    start = int(header[0]) + 12 * colours
    return np.frombuffer(dump, np.uint8, height * line, start).reshape(height, -1, 4)[..., 2::-1]


def settle(screen, different_from=None, timeout=20.0):
    """A picture that stays for a while, and is another than this."""
    deadline, last, since = time.monotonic() + timeout, grab(screen), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = grab(screen)
        if (now != last).any():
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 0.6 and (different_from is None or (now != different_from).any()):
            return now
    raise AssertionError("the screen does not come to rest" if different_from is None else "nothing changes")


@pytest.mark.slow
def test_real_keys_drive_the_window_on_a_screen(screen, tmp_path):
    fast, slow = save_driver(tmp_path / "fast", 1.0), save_driver(tmp_path / "slow", 0.3)

    def tell(*words):
        subprocess.run(["xdotool", *words], env=screen.environment, check=True, timeout=30)

    command = [sys.executable, "-m", "trainers.evaluate", str(fast), "--show", "--against", str(slow)]
    with subprocess.Popen(command, env=screen.environment, stderr=subprocess.PIPE, text=True) as watching:
        try:
            deadline = time.monotonic() + 240
            while not grab(screen).any() and watching.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert watching.poll() is None, watching.stderr.read()
            first, deadline = grab(screen), time.monotonic() + 20
            while (grab(screen) == first).all():
                assert time.monotonic() < deadline, "it does not play"
            tell("key", "space")
            paused = settle(screen)
            assert near(paused, ALERT).any() and near(paused, INK).any()
            half = 800
            assert all(near(part, agent_colours(3)[0]).any() for part in (paused[:, :half], paused[:, half:]))

            tell("key", "Left")
            back = settle(screen, paused)
            tell("key", "Right")
            np.testing.assert_array_equal(settle(screen, back), paused)
            for key in ("l", "t"):
                tell("key", key)
                other = settle(screen, paused)
                tell("key", key)
                np.testing.assert_array_equal(settle(screen, other), paused)
            tell("key", "plus")
            faster = settle(screen, paused)
            tell("key", "minus")
            np.testing.assert_array_equal(settle(screen, faster), paused)

            row, column = locate(paused[:, half:], 2, 3)
            tell("mousemove", str(half + column), str(row), "click", "1")
            followed = settle(screen, paused)
            assert near(followed, agent_colours(3)[2]).sum() > near(paused, agent_colours(3)[2]).sum()
            tell("key", "r")
            settle(screen, followed)
            tell("key", "Escape")
            assert watching.wait(30) == 0
        finally:
            watching.kill()
