import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from helpers.frames import locate, near, world

from entropy_env.render import Renderer
from entropy_env.render.scene import ALERT, FLOOR, OBSTACLE, SHADE, WALL, agent_colours
from entropy_env.render.video import check_video_path, side_by_side, write_video
from entropy_env.types import SwarmParams

pytest.importorskip("pygame")

PARAMS = SwarmParams()
TESTS = Path(__file__).parents[1]


def draw(state, **options):
    return Renderer(**options).draw(state, PARAMS)


def changed(frame, other):
    """Rows and columns of the pixels that differ."""
    return np.nonzero((frame != other).any(axis=-1))


def test_frame_is_an_rgb_image_within_the_largest_size_and_of_even_sides():
    frame = draw(world([[4, 3]]), max_size=(641, 401))
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    assert frame.shape[0] <= 401 and frame.shape[1] <= 641
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0


def test_y_is_up_and_x_is_right():
    frame = draw(world([[0.5, 5.5], [7.5, 0.5]]))
    (top, left), (bottom, right) = locate(frame, 0, 2), locate(frame, 1, 2)
    assert top < frame.shape[0] / 4 and bottom > frame.shape[0] * 3 / 4
    assert left < frame.shape[1] / 4 and right > frame.shape[1] * 3 / 4


@pytest.mark.parametrize("size", [(8, 6), (3, 12), (30, 3), (3, 3), (300, 200), (3, 300)])
def test_any_arena_fits_with_one_scale_for_both_axes(size):
    width, height = size
    frame = draw(world([[0, 0], [width, height]], size=size))
    (bottom, left), (top, right) = locate(frame, 0, 2), locate(frame, 1, 2)
    assert 0 < top < bottom < frame.shape[0] - 1 and 0 < left < right < frame.shape[1] - 1
    scale = (right - left) / width if width > height else (bottom - top) / height
    assert (right - left, bottom - top) == pytest.approx((width * scale, height * scale), abs=3)
    assert right - left > 0.9 * frame.shape[1] or bottom - top > 0.8 * frame.shape[0]


def test_frame_size_stays_when_the_arena_changes():
    renderer = Renderer()
    shapes = {renderer.draw(world([[1, 1]], size=size), PARAMS).shape for size in [(8, 6), (2, 12), (30, 3)]}
    assert len(shapes) == 1


def test_walls_are_capsules_where_they_stand():
    frame = draw(world([[1, 1.5], [1, 4.5]], walls=[[(4, 1), (4, 3)]]))
    (low, _), (high, _) = locate(frame, 0, 2), locate(frame, 1, 2)
    scale, middle = (low - high) / 3, frame.shape[1] // 2
    wall = near(frame, WALL)
    assert wall[low, middle] and not wall[high, middle]
    column = np.flatnonzero(wall[high : low + round(0.9 * scale), middle])
    assert len(column) == pytest.approx((2 + 2 * PARAMS.wall_half_thickness) * scale, abs=3)
    assert wall[low, middle - 50 : middle + 50].sum() == pytest.approx(2 * PARAMS.wall_half_thickness * scale, abs=2)


def test_walls_do_not_stick_out_of_the_arena():
    frame = draw(world([[1, 1]], walls=[[(4, 0), (4, 0)]]))
    rows, _ = changed(frame, draw(world([[1, 1]])))
    low, left = locate(frame, 0, 1)
    scale = (frame.shape[1] / 2 - left) / 3
    assert len(rows) and rows.max() <= low + scale


def test_boxes_and_discs_have_their_place_and_area():
    frame = draw(world([[1, 1], [1, 5]], boxes=[[5, 3, 0.5, 1]], discs=[[2.5, 3, 0.5]]))
    (low, _), (high, _) = locate(frame, 0, 2), locate(frame, 1, 2)
    scale, solid = (low - high) / 4, near(frame, OBSTACLE)
    middle = frame.shape[1] // 2
    assert solid[:, middle:].sum() == pytest.approx(2 * scale**2, rel=0.05)
    assert solid[:, :middle].sum() == pytest.approx(np.pi / 4 * scale**2, rel=0.05)
    rows, columns = np.nonzero(solid)
    assert rows.mean() == pytest.approx((low + high) / 2, abs=1)
    assert columns[columns > middle].mean() == pytest.approx(middle + scale, abs=2)


def test_unused_slots_are_not_drawn():
    filled = world([[1, 1]], walls=[[(4, 1), (4, 3)]], boxes=[[5, 3, 0.5, 1]], discs=[[2.5, 3, 0.5]])
    layout = filled.layout.replace(wall_mask=np.array([False]), box_mask=np.array([False]), disc_mask=np.array([False]))
    np.testing.assert_array_equal(draw(filled.replace(layout=layout)), draw(world([[1, 1]])))


def test_goal_is_a_ring_joined_to_its_robot():
    state = world([[1, 3.3], [1, 1]], goals=[[7, 3.3], [1, 1]])
    away = state.replace(layout=state.layout.replace(goals=state.layout.goals + np.array([0, 0.6], np.float32)))
    frame = draw(state)
    row, column = locate(frame, 0, 2)
    columns = changed(frame, draw(away))[1]
    scale = (frame.shape[1] / 2 - column) / 3
    assert columns.max() == pytest.approx(column + (6 + PARAMS.goal_radius) * scale, abs=4)
    for between in np.linspace(column + 0.5 * scale, column + 5.5 * scale, 7).astype(int):
        assert not near(frame[row - 1 : row + 2, between], FLOOR).all()


def test_the_current_goal_is_drawn():
    state = world([[1, 3]])
    two = state.layout.replace(goals=np.array([[[7, 1], [7, 5]]], np.float32))
    frames = [draw(state.replace(layout=two, goal_index=np.array([index]))) for index in (0, 1)]
    expected = [draw(world([[1, 3]], goals=[goal])) for goal in ([7, 1], [7, 5])]
    np.testing.assert_array_equal(frames, expected)


def test_inactive_agents_and_their_goals_are_not_drawn():
    here = world([[2, 2], [6, 4]], goals=[[2, 4], [6, 2]], active=[True, False])
    there = world([[2, 2], [5, 1]], goals=[[2, 4], [1, 5]], active=[True, False], collided=[False, True])
    np.testing.assert_array_equal(draw(here), draw(there))
    assert near(draw(here), agent_colours(2)[0]).any() and not near(draw(here), agent_colours(2)[1]).any()


def test_contact_puts_a_red_rim_on_the_robot_alone():
    row, column = locate(draw(world([[2, 2], [6, 4]])), 1, 2)
    frame = draw(world([[2, 2], [6, 4]], collided=[False, True]))
    rows, columns = np.nonzero(near(frame, ALERT))
    in_arena = rows > frame.shape[0] / 8  # the count above the arena is red too
    assert in_arena.sum() > 20
    assert np.hypot(rows - row, columns - column)[in_arena].max() < 20


@pytest.mark.parametrize(
    ("heading", "ahead"), [(0, (0, 5)), (np.pi / 2, (-5, 0)), (np.pi, (0, -5)), (-np.pi / 2, (5, 0))]
)
def test_robots_carry_a_white_arrow_that_points_along_the_heading(heading, ahead):
    frame = draw(world([[4, 3]], heading=[heading]))
    row, column = locate(frame, 0, 1)
    assert near(frame[row + ahead[0], column + ahead[1]], FLOOR)
    assert near(frame[row - ahead[0], column - ahead[1]], agent_colours(1)[0])


def test_colours_are_distinct_and_do_not_depend_on_the_number_of_agents():
    colours = agent_colours(100).astype(int)
    np.testing.assert_array_equal(agent_colours(10), colours[:10])
    apart = np.abs(colours[:, None] - colours).sum(axis=-1) + 1000 * np.eye(100)
    assert apart.min() > 3
    assert np.abs(colours - ALERT).sum(axis=-1).min() > 110


def test_lidar_rays_leave_counter_clockwise_from_the_heading():
    state = world([[4, 3]])
    lidar = np.array([[0, 0.5, 0, 0]])  # the second of four rays: to the left of a robot that looks along x
    plain = draw(state)
    frame = Renderer(show_lidar=True).draw(state, PARAMS, lidar)
    row, column = locate(plain, 0, 1)
    rows, columns = changed(frame, plain)
    scale = (frame.shape[1] / 2 - locate(draw(world([[1, 3]])), 0, 1)[1]) / 3
    assert row - rows.min() == pytest.approx((0.1 + 0.5 * PARAMS.lidar_range) * scale, abs=4)
    assert np.abs(columns - column).max() < 0.2 * scale and rows.max() < row + 0.2 * scale
    np.testing.assert_array_equal(Renderer().draw(state, PARAMS, lidar), plain)


def drive(renderer, xs, steps=None, **fields):
    """Draw one robot at each x in turn; the last frame."""
    for step, x in zip(steps or range(len(xs)), xs, strict=True):
        frame = renderer.draw(world([[x, 3]], goals=[[x, 5]], step=step, **fields), PARAMS)
    return frame


def test_trails_follow_the_robot_and_forget():
    xs = np.arange(2, 4, 0.1)
    plain = drive(Renderer(), xs)
    long, short = (changed(drive(Renderer(trails=trails), xs), plain)[1] for trails in (10, 5))
    scale = (plain.shape[1] / 2 - locate(draw(world([[1, 3]])), 0, 1)[1]) / 3
    assert np.ptp(long) - np.ptp(short) == pytest.approx(0.5 * scale, abs=3)


def test_trails_break_where_an_agent_is_put_somewhere_else():
    np.testing.assert_array_equal(drive(Renderer(trails=9), [1, 7]), drive(Renderer(), [1, 7]))
    assert len(changed(drive(Renderer(trails=9), [1, 1.2]), drive(Renderer(), [1, 1.2]))[0])


def test_trails_reach_over_steps_that_were_not_drawn():
    assert len(changed(drive(Renderer(trails=9), [1, 2], steps=[0, 10]), drive(Renderer(), [1, 2], steps=[0, 10]))[0])


def test_trails_start_afresh_with_an_episode():
    restarted = drive(Renderer(trails=9), [1, 1.2, 1.4, 3], steps=[3, 4, 5, 0])
    np.testing.assert_array_equal(restarted, drive(Renderer(), [3]))


def test_the_same_state_gives_the_same_frame():
    once = drive(Renderer(trails=2), [1, 1.2, 1.4])
    np.testing.assert_array_equal(drive(Renderer(trails=2), [1, 1.2, 1.4, 1.4], steps=[0, 1, 2, 2]), once)


@pytest.mark.parametrize(
    ("field", "one", "other"),
    [
        ("step", 7, 8),
        ("goals_reached", [1, 0], [1, 1]),
        ("goals_reached", [3, 1], [3, 2]),
        ("goals_reached", [3, 0], [2, 1]),
        ("collided", [True, False], [True, True]),
    ],
)
def test_status_tells_the_counts_outside_the_arena(field, one, other):
    frame = draw(world([[0, 6], [8, 6]], **{field: one}))
    rows, _ = changed(frame, draw(world([[0, 6], [8, 6]], **{field: other})))
    arena = locate(frame, 0, 2)[0]
    assert len(rows) and rows.min() < arena - 20
    assert field == "collided" or rows.max() < arena - 3


def test_labels_and_title_are_written():
    state, renderer = world([[4, 3]]), Renderer()
    plain = renderer.draw(state, PARAMS)
    row, column = locate(plain, 0, 1)
    rows, columns = changed(renderer.draw(state, PARAMS, labels=["seven"]), plain)
    assert len(rows) and rows.max() < row and abs(columns.mean() - column) < 10
    rows, columns = changed(renderer.draw(state, PARAMS, title="rooms"), plain)
    assert rows.max() < row / 4 and columns.min() > plain.shape[1] / 2


def lattice(columns, rows, pitch=3.0):
    """(columns * rows, 2) m, from the bottom left of an arena of columns x rows squares of this pitch."""
    cells = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    return pitch * (cells + 0.5)


def at(frame, points, corners, size):
    """(M, 3) int: the pixels at points (M, 2) m, by where two robots stand in a frame of an arena of the same size."""
    (low, left), (high, right) = (locate(draw(world(corners, size=size)), agent, 2) for agent in (0, 1))
    share = (points - corners[0]) / (corners[1] - corners[0])
    columns, rows = (np.rint([left, low] + share * [right - left, high - low])).astype(int).T
    return frame[rows, columns].astype(int)


@pytest.mark.parametrize(("columns", "rows"), [(100, 100), (125, 80)])
def test_ten_thousand_robots_stay_visible_in_a_huge_arena(columns, rows):
    places, size = lattice(columns, rows), (3 * columns, 3 * rows)
    collided = np.arange(10_000) % 100 == 7
    frame = draw(world(places, size=size, goals=np.ones((10_000, 2)), collided=collided))
    colours = agent_colours(10_000).astype(int)
    assert np.abs(at(frame, places, places[[0, -1]], size) - colours).max() <= 6
    in_arena = near(frame, ALERT)[frame.shape[0] // 8 :]
    assert in_arena.sum() == pytest.approx(16 * collided.sum(), rel=0.3)


def test_goals_of_a_crowd_are_a_shade_that_robots_stand_out_from():
    places, size = lattice(20, 20), (60, 60)
    corners, goals = places[[0, -1]], places[:200] + np.array([0, 1.5])
    on_robots = draw(world(places, goals=places[::-1], size=size))
    assert np.abs(at(on_robots, places, corners, size) - agent_colours(400)).max() <= 6
    between = draw(world(places, goals=np.repeat(goals, 2, axis=0), size=size))
    assert np.abs(at(between, goals, corners, size) - SHADE).max() <= 6


def test_a_crowd_is_drawn_without_lidar_and_labels():
    state = world(lattice(20, 20), size=(60, 60))
    frame = Renderer(show_lidar=True).draw(state, PARAMS, np.full((400, 32), 0.5), labels=["x"] * 400)
    np.testing.assert_array_equal(frame, draw(state))


def test_trails_of_a_crowd_reach_as_far_with_fewer_corners(monkeypatch):
    import pygame

    def lines(limit):
        """Start and end of those drawn last, (L, 2, 2) px."""
        monkeypatch.setattr("entropy_env.render.scene.TRAIL_LINES", limit)
        renderer = Renderer(trails=18)
        for step in range(19):
            drawn.clear()
            renderer.draw(world(lattice(20, 20) + np.array([0.1 * step, 0]), size=(60, 60), step=step), PARAMS)
        return np.array(drawn)

    drawn, line = [], pygame.draw.line
    monkeypatch.setattr(pygame.draw, "line", lambda *args: drawn.append(args[2:4]) or line(*args))
    whole, few = lines(10_000), lines(1600)
    assert len(whole) >= 18 * 400 and 1200 <= len(few) <= 1600
    np.testing.assert_array_equal(few[-400:, 1], whole[-400:, 1])  # on the robots
    np.testing.assert_array_equal(few[-1200:-800, 0], whole[-15 * 400 : -14 * 400, 0])  # of 18 steps, 3 times 5


def test_broken_positions_are_left_out():
    np.testing.assert_array_equal(
        draw(world([[2, 2], [np.nan, 1]], goals=[[2, 4], [6, 2]])),
        draw(world([[2, 2], [6, 4]], goals=[[2, 4], [6, 2]], active=[True, False])),
    )


@pytest.mark.parametrize(
    "options",
    [{"mode": "ansi"}, {"max_size": (10, 500)}, {"trails": -1}, {"fps": 0}],
    ids=lambda option: next(iter(option)),
)
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Renderer(**options)


def test_wrong_shapes_are_shown():
    state = world([[2, 2], [6, 4]])
    with pytest.raises(ValueError, match=r"one world.*\(1, 2, 2\)"):
        draw(state.replace(position=state.position[None]))
    with pytest.raises(ValueError, match=r"\(1, 32\), not \(2, R\)"):
        Renderer(show_lidar=True).draw(state, PARAMS, np.ones((1, 32)))


def run_without_display(code):
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


SCENE = "from helpers.frames import world; state = world([[4, 3]]); from entropy_env.types import SwarmParams\n"


def test_rgb_array_needs_no_display_and_starts_no_video():
    code = (
        "import sys; import entropy_env.render as render; assert 'pygame' not in sys.modules\n"
        "renderer = render.Renderer(trails=3); import pygame\n"
        f"{SCENE}frame = renderer.draw(state, SwarmParams()); renderer.close(); renderer.close()\n"
        "assert frame.std() > 0 and not pygame.display.get_init()"
    )
    done = run_without_display(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_human_without_a_display_names_rgb_array():
    done = run_without_display("from entropy_env.render import Renderer; Renderer('human')")
    assert done.returncode and "needs a display" in done.stderr and 'mode="rgb_array"' in done.stderr


@pytest.fixture
def window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    renderer = Renderer("human", fps=1000)
    yield renderer
    renderer.close()


def shown(renderer):
    """What is in its window, (H, W, 3)."""
    import pygame

    return pygame.surfarray.array3d(renderer._window._canvas.to_surface()).swapaxes(0, 1)


def post(kind, renderer):
    import pygame

    pygame.event.post(pygame.event.Event(kind, window=renderer._window._window))


def test_human_shows_the_frame_in_a_window(window):
    state = world([[4, 3]])
    assert window.draw(state, PARAMS) is None
    np.testing.assert_array_equal(shown(window), draw(state))


def test_human_outlives_the_closing_of_its_window(window):
    import pygame

    window.draw(world([[4, 3]]), PARAMS)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    for _ in range(2):
        assert window.draw(world([[4, 3]]), PARAMS) is None
        assert window.closed and window._window._window is None
    window.close()


def test_closing_one_of_two_windows_leaves_the_other(window):
    import pygame

    other, state = Renderer("human", fps=1000), world([[4, 3]])
    for renderer in (window, other):
        renderer.draw(state, PARAMS)
    post(pygame.WINDOWCLOSE, window)
    for renderer in (other, window):
        renderer.draw(world([[2, 3]]), PARAMS)
    assert window.closed and not other.closed
    np.testing.assert_array_equal(shown(other), draw(world([[2, 3]])))
    window.close()
    other.draw(state, PARAMS)
    np.testing.assert_array_equal(shown(other), draw(state))
    other.close()


@pytest.mark.parametrize("mode", ["human", "rgb_array"])
def test_a_neighbour_that_ends_pygame_ends_no_drawing(monkeypatch, mode):
    import pygame

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    renderers = [Renderer(mode, fps=1000 if mode == "human" else None) for _ in range(2)]
    state = world([[4, 3]])
    for end in (pygame.quit, pygame.display.quit, pygame.quit):
        frames = [renderer.draw(state, PARAMS) for renderer in renderers]
        end()
    frames = [renderer.draw(state, PARAMS) for renderer in renderers]
    for renderer, frame in zip(renderers, frames, strict=True):
        np.testing.assert_array_equal(shown(renderer) if mode == "human" else frame, draw(state))
        renderer.close()


def test_a_window_comes_back_beside_the_one_that_a_neighbour_opened_meanwhile(window):
    import pygame

    window.draw(world([[4, 3]]), PARAMS)
    pygame.display.quit()
    pygame.display.init()
    theirs = pygame.display.set_mode((60, 40))
    theirs.fill((9, 8, 7))
    pygame.event.clear()
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_a))
    window.draw(world([[2, 3]]), PARAMS)
    np.testing.assert_array_equal(shown(window), draw(world([[2, 3]])))
    window.draw(world([[2, 3]]), PARAMS)
    assert [event.key for event in pygame.event.get(pygame.KEYDOWN)] == [pygame.K_a]
    window.close()
    assert pygame.display.get_surface() is theirs and theirs.get_at((0, 0))[:3] == (9, 8, 7)
    pygame.display.quit()


def test_events_that_nobody_reads_do_not_pile_up(window):
    import pygame

    window.draw(world([[4, 3]]), PARAMS)
    pygame.display.set_mode((60, 40))
    for _ in range(1500):
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_a))
    window.draw(world([[4, 3]]), PARAMS)
    assert len(pygame.event.get(pygame.KEYDOWN)) <= 1000
    pygame.display.quit()


def test_an_agent_is_found_at_its_pixels():
    renderer = Renderer()
    assert renderer.agent_at(10, 10) is None
    frame = renderer.draw(world([[1, 1], [6, 5], [4, 3]], active=[True, True, False]), PARAMS)
    for agent in (0, 1):
        row, column = locate(frame, agent, 3)
        assert renderer.agent_at(column, row) == renderer.agent_at(column + 12, row) == agent
        assert renderer.agent_at(column, row + 40) is None
    assert renderer.agent_at(frame.shape[1] // 2, frame.shape[0] // 2) is None


def test_an_agent_in_focus_is_in_the_middle_and_larger():
    state, renderer = world([[1, 1], [6.5, 5]], walls=[[(5, 0), (5, 6)]]), Renderer()
    plain = renderer.draw(state, PARAMS)
    frame = renderer.draw(state, PARAMS, focus=1)
    assert frame.shape == plain.shape
    row, column = locate(frame, 1, 2)
    assert renderer.agent_at(column, row) == 1
    assert abs(column - frame.shape[1] / 2) < 3 and abs(row - frame.shape[0] / 2) < 30
    assert near(frame, agent_colours(2)[1]).sum() > 3 * near(plain, agent_colours(2)[1]).sum()
    assert not near(frame, agent_colours(2)[0]).any() and near(frame, WALL).any()
    status = slice(0, round(0.06 * frame.shape[0]))
    np.testing.assert_array_equal(frame[status], plain[status])


def test_trails_may_be_taken_from_given_states():
    xs = np.arange(2, 4, 0.1)
    states = [world([[x, 3]], goals=[[x, 5]], step=step) for step, x in enumerate(xs)]
    expected, renderer = drive(Renderer(trails=9), xs), Renderer(trails=9)
    renderer.draw(states[0], PARAMS)
    renderer.retrace(states[:-1])
    np.testing.assert_array_equal(renderer.draw(states[-1], PARAMS), expected)
    renderer.retrace([])
    np.testing.assert_array_equal(renderer.draw(states[-1], PARAMS), drive(Renderer(), xs))


@pytest.mark.parametrize(("fps", "expected"), [(None, 10.0), (25, 25)])
def test_human_is_paced_at_fps_or_in_real_time(monkeypatch, window, fps, expected):
    import pygame

    ticks = []
    monkeypatch.setattr(pygame.time, "Clock", lambda: type("Clock", (), {"tick": staticmethod(ticks.append)}))
    window.fps = fps
    window.draw(world([[4, 3]]), PARAMS)
    assert ticks == pytest.approx([expected])


def clip(count=5, height=48, width=64):
    """Frames with a bright square that moves right, over a ground that brightens."""
    for index in range(count):
        frame = np.full((height, width, 3), index % 5 * 20, np.uint8)
        frame[8:24, 8 * index : 8 * index + 16] = (250, 160, 40)
        yield frame


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio, when it reads an MP4
@pytest.mark.parametrize(("name", "plugin"), [("clip.gif", "pillow"), ("clip.mp4", "FFMPEG"), ("CLIP.GIF", "pillow")])
def test_video_reads_back_as_written(tmp_path, name, plugin):
    path = write_video(tmp_path / "new" / "folder" / name, clip(), fps=20)
    assert path == tmp_path / "new" / "folder" / name and os.listdir(path.parent) == [name]
    back = iio.imread(path, plugin=plugin, index=None if plugin == "FFMPEG" else ...)
    assert back.shape == (5, 48, 64, 3)
    assert np.abs(back.astype(int) - np.array(list(clip()), int)).mean() < 4
    meta = iio.immeta(path, plugin=plugin)
    assert meta["fps"] == 20 if plugin == "FFMPEG" else meta["duration"] == 50


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio, when it reads an MP4
def test_mp4_pads_odd_sizes_with_the_edge(tmp_path):
    path = write_video(tmp_path / "odd.mp4", clip(height=47, width=63))
    back = iio.imread(path, plugin="FFMPEG")
    assert back.shape == (5, 48, 64, 3)
    assert np.abs(back[:, -1].astype(int) - back[:, -2].astype(int)).mean() < 3


NAMES = ["a:b", "file:a", "-y", "50%", "%03d", "a b", "ü", "b\udcff", "'q'", "[0]", "a,b;c", "n" * 251, "l\nf"]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # imageio, when it reads an MP4
@pytest.mark.parametrize("name", NAMES)
def test_a_video_may_have_any_name_and_stand_in_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (Path(f"{name}.gif"), Path(name, "video.mp4"), Path(name, f"{name}.gif")):
        check_video_path(path)
        assert write_video(path, clip(2)) == path
        assert path.stat().st_size > 0
    both = side_by_side(Path(name, f"{name}.gif"), f"{name}.gif", Path(name, "video.mp4"))
    assert both.read_bytes().startswith(b"GIF89a")
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name}.gif"])
    assert sorted(os.listdir(tmp_path / name)) == sorted(["video.mp4", f"{name}.gif"])


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("folder.gif", IsADirectoryError),
        ("file/a/clip.gif", NotADirectoryError),
        ("new/" + "n" * 252 + ".gif", OSError),
        ("clip.avi", ValueError),
        ("clip", ValueError),
    ],
)
def test_a_video_that_cannot_be_is_refused_before_any_frame_is_drawn(tmp_path, name, error):
    def never():
        pytest.fail("a frame was drawn")
        yield

    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "file").touch()
    for refuse in (check_video_path, lambda path: write_video(path, never())):
        with pytest.raises(error, match=name.split("/")[0]):
            refuse(tmp_path / name)
        assert {"folder.gif", "file"} <= set(os.listdir(tmp_path)) <= {"folder.gif", "file", "new"}
    check_video_path(tmp_path / "new" / "folder" / "clip.gif")
    assert not (tmp_path / "new" / "folder").exists()


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_old_file_survives_frames_that_fail(tmp_path, suffix):
    def failing():
        yield from clip()
        raise RuntimeError("the simulator fell over")

    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="fell over"):
        write_video(path, failing())
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [path.name]


def test_old_file_survives_an_encoder_that_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules["entropy_env.render.video"].ENCODING, ".mp4", ["-c:v", "no_such_codec"])
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="no_such_codec"):
        write_video(path, clip(count=200))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [path.name]


def test_nothing_is_left_behind_where_the_file_cannot_go(tmp_path):
    (tmp_path / "clip.gif").mkdir()
    with pytest.raises(OSError):
        write_video(tmp_path / "clip.gif", clip())
    assert os.listdir(tmp_path) == ["clip.gif"]


def test_old_file_is_replaced(tmp_path):
    path = tmp_path / "clip.gif"
    path.write_bytes(b"old")
    write_video(path, clip())
    assert path.read_bytes().startswith(b"GIF89a")


def test_two_videos_side_by_side_are_twice_as_wide_and_the_shorter_stands_still_at_its_end(tmp_path):
    left, right = list(clip(5)), [255 - frame for frame in clip(3)]
    write_video(tmp_path / "left.gif", left, fps=20)
    write_video(tmp_path / "right.gif", right, fps=20)
    path = side_by_side(tmp_path / "new" / "both.gif", tmp_path / "left.gif", tmp_path / "right.gif")
    back = iio.imread(path, plugin="pillow", index=...)
    assert back.shape == (5, 48, 128, 3)
    assert iio.immeta(path, plugin="pillow")["duration"] == 50
    assert np.abs(back[:, :, :64].astype(int) - np.array(left, int)).mean() < 4
    assert np.abs(back[:, :, 64:].astype(int) - np.array([*right, right[-1], right[-1]], int)).mean() < 4
    assert os.listdir(path.parent) == ["both.gif"]


def test_videos_that_cannot_be_side_by_side_leave_the_old_file_and_say_why(tmp_path):
    write_video(tmp_path / "left.gif", clip())
    write_video(tmp_path / "right.gif", clip(height=40))
    (tmp_path / "both.gif").write_bytes(b"old")
    with pytest.raises(RuntimeError, match=r"both\.gif.*height"):
        side_by_side(tmp_path / "both.gif", tmp_path / "left.gif", tmp_path / "right.gif")
    with pytest.raises(RuntimeError, match="absent"):
        side_by_side(tmp_path / "both.gif", tmp_path / "left.gif", tmp_path / "absent.gif")
    assert (tmp_path / "both.gif").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["both.gif", "left.gif", "right.gif"]


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("clip.avi", clip(), 10, r"'clip.avi'.*\.gif or \.mp4"),
        ("clip", clip(), 10, r"\.gif or \.mp4"),
        ("clip.mp4", [], 10, "at least one frame"),
        ("clip.mp4", clip(), 0, "fps=0"),
        ("clip.gif", clip(), 60, "at most 50"),
        ("clip.gif", [np.zeros((4, 4, 3))], 10, r"frame 0 is float64 \(4, 4, 3\)"),
        ("clip.gif", [*clip(1), *clip(1, height=50)], 10, r"frame 1 has shape \(50, 64, 3\).*first has \(48, 64, 3\)"),
    ],
)
def test_wrong_video_arguments_are_named(tmp_path, name, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, frames, fps)
    assert not os.listdir(tmp_path)
