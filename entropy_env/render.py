"""Draw one world with pygame: off-screen into an array, or in a window.

pygame is imported when the first `Renderer` is made. `rgb_array` never touches the video system, so it works
on machines without a display.
"""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from entropy_env.types import SwarmParams, SwarmState

RenderMode = Literal["rgb_array", "human"]

SUPERSAMPLE = 3  # everything but text is drawn this many times larger, then averaged down
CROWD = 300  # agents above which goal lines and labels would hide the scene

CANVAS = (246, 247, 249)
FLOOR = (255, 255, 255)
GRID = (240, 242, 245)
BORDER = (71, 85, 105)
WALL = (71, 85, 105)
OBSTACLE = (148, 163, 184)
INK = (30, 41, 59)
MUTED = (123, 135, 152)
ALERT = (225, 29, 46)

# Forward is +x and the rim of the robot is at 1.
ARROW = np.array([[0.72, 0.0], [-0.52, 0.50], [-0.26, 0.0], [-0.52, -0.50]])


@functools.lru_cache(maxsize=16)
def agent_colours(num_agents: int) -> np.ndarray:
    """(N, 3) uint8, one colour per agent index, whatever the number of agents.

    Golden-ratio hues at even lightness in OKLCH (Ottosson 2020), with a gap at red, which is kept for contacts.
    """
    index = np.arange(num_agents)
    hue = 2 * np.pi * (0.15 + 0.88 * ((0.5 + index * 0.6180339887) % 1.0))
    lightness = np.array([0.64, 0.72, 0.54])[index % 3]
    lab = np.stack([lightness, 0.145 * np.cos(hue), 0.145 * np.sin(hue)], axis=-1)
    cone = lab @ np.array([[1.0, 1.0, 1.0], [0.3963378, -0.1055613, -0.0894842], [0.2158038, -0.0638542, -1.2914855]])
    linear = cone**3 @ np.array(
        [[4.0767417, -1.2684380, -0.0041961], [-3.3077116, 2.6097574, -0.7034186], [0.2309699, -0.3413194, 1.7076147]]
    )
    colours = np.rint(255 * np.clip(linear, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8)
    colours.setflags(write=False)
    return colours


class Renderer:
    """Draws worlds, one frame a call.

    The first arena drawn sets the size of the frame, both sides even; later ones are fitted into it, so that the
    frames of a curriculum still make one video.

    mode: `rgb_array` returns frames, `human` shows them in the one window that pygame has.
    max_size: px, the largest width and height of a frame.
    show_lidar: draw the readings given to `draw`.
    trails: how many past positions to join behind each agent.
    fps: pace of `human`, frames/s; None for real time, 1 / dt.
    """

    def __init__(
        self,
        mode: RenderMode = "rgb_array",
        max_size: tuple[int, int] = (960, 720),
        show_lidar: bool = False,
        trails: int = 0,
        fps: float | None = None,
    ) -> None:
        if mode not in get_args(RenderMode):
            raise ValueError(f"{mode=} must be one of {', '.join(get_args(RenderMode))}")
        if min(max_size) < 64:
            raise ValueError(f"{max_size=} must be at least 64 px each way")
        if trails < 0:
            raise ValueError(f"{trails=} must not be negative")
        if fps is not None and not fps > 0:
            raise ValueError(f"{fps=} must be positive")
        self.mode, self.show_lidar, self.fps = mode, show_lidar, fps
        self.closed = False
        self._max_size = np.array(max_size) // 2 * 2
        self._history: deque[tuple[int, np.ndarray]] = deque(maxlen=trails + 1)
        self._canvas: Any = None
        self._window: Any = None
        self._pygame = _import_pygame()
        if mode == "human":
            _start_display(self._pygame)
        self._clock = self._pygame.time.Clock()

    def draw(
        self,
        state: SwarmState,
        params: SwarmParams,
        lidar: Any = None,
        labels: Sequence[str] | None = None,
        title: str = "",
    ) -> np.ndarray | None:
        """One frame (H, W, 3) uint8, or None in `human`, where a closed window stays closed.

        state, params: of a single world, NumPy or JAX leaves. lidar: (N, R) in [0, 1]. labels: N short strings,
        written above the robots. title: written at the top right.
        """
        if self.mode == "human" and self.closed:
            return None
        position = np.asarray(state.position, float)
        if position.ndim != 2:
            raise ValueError(f"one world is drawn at a time, but position has shape {position.shape}, not (N, 2)")
        alive = np.asarray(state.active, bool) & np.isfinite(position).all(axis=-1)
        self._remember(int(state.step), np.where(alive[:, None], position, np.nan))

        scene = self._fit(np.asarray(state.layout.size, float))
        scene.draw_floor()
        if self.show_lidar and lidar is not None:
            scene.draw_lidar(state, params, np.asarray(lidar, float), alive)
        scene.draw_trails(self._history, params)
        scene.draw_goals(state, params, alive)
        scene.draw_obstacles(state.layout, params)
        scene.draw_robots(state, params, alive)

        frame = self._pygame.transform.smoothscale(scene.canvas, self._frame_size)
        self._write_status(frame, state, params, alive, title)
        if labels is not None and len(alive) <= CROWD:
            self._write_labels(frame, scene, state, params, alive, labels)
        if self.mode == "human":
            self._show(frame, self.fps or 1 / float(params.dt))
            return None
        return np.ascontiguousarray(self._pygame.surfarray.array3d(frame).swapaxes(0, 1))

    def close(self) -> None:
        """Close the window, if there is one. May be called again."""
        if self.mode == "human" and not self.closed:
            self._pygame.display.quit()
        self.closed = True

    def _remember(self, step: int, points: np.ndarray) -> None:
        if self._history:
            last_step, last_points = self._history[-1]
            if step < last_step or points.shape != last_points.shape:
                self._history.clear()
            elif step == last_step:
                self._history.pop()
        self._history.append((step, points))

    def _fit(self, size: np.ndarray) -> _Scene:
        margin = max(2, int(self._max_size.min()) // 40)
        self._header = 3 * margin
        border = np.array([2 * margin, margin + self._header])
        if self._canvas is None:
            tight = np.ceil(size * ((self._max_size - border) / size).min()) + border
            frame_size = np.clip(tight, self._max_size // 2, self._max_size).astype(int)
            self._frame_size = tuple((frame_size + frame_size % 2).tolist())
            self._canvas = self._pygame.Surface([SUPERSAMPLE * side for side in self._frame_size], 0, 32)
        room = np.array(self._frame_size) - border
        scale = float((room / size).min())
        corner = np.array([margin, self._header]) + (room - size * scale) / 2 + [0, size[1] * scale]
        return _Scene(self._pygame, self._canvas, size, scale * SUPERSAMPLE, corner * SUPERSAMPLE)

    def _write_status(self, frame: Any, state: SwarmState, params: SwarmParams, alive: np.ndarray, title: str) -> None:
        reached = np.asarray(state.goals_reached)
        collisions = int((np.asarray(state.collided, bool) & alive).sum())
        arrived = f"{(reached > 0).sum()}/{len(reached)}"
        words = [
            ("step ", MUTED),
            (f"{int(state.step)}/{int(params.max_steps)}", INK),
            ("    reached ", MUTED),
            (arrived if reached.max() <= 1 else f"{reached.sum()} ({arrived} robots)", INK),
            ("    collisions ", MUTED),
            (str(collisions), ALERT if collisions else INK),
        ]
        margin = self._header // 3
        room = frame.get_width() - 2 * margin
        wanted = margin * 17 // 18
        needed = self._font(wanted).size("".join(word for word, _ in words) + (f"    {title}" if title else ""))[0]
        font = self._font(min(wanted, wanted * room // needed))
        y = (self._header - font.get_height()) // 2
        if title:
            frame.blit(font.render(title, True, MUTED), (margin + room - font.size(title)[0], y))
        x = margin
        for word, colour in words:
            frame.blit(font.render(word, True, colour), (x, y))
            x += font.size(word)[0]

    def _write_labels(
        self,
        frame: Any,
        scene: _Scene,
        state: SwarmState,
        params: SwarmParams,
        alive: np.ndarray,
        labels: Sequence[str],
    ) -> None:
        font = self._font(self._header // 4)
        rise = scene.length(params.agent_radius, least=2) // SUPERSAMPLE + font.get_height()
        for agent in np.flatnonzero(alive):
            x, y = (value // SUPERSAMPLE for value in scene.pixels(state.position[agent]))
            frame.blit(font.render(labels[agent], True, INK), (x - font.size(labels[agent])[0] // 2, y - rise))

    def _font(self, size: int) -> Any:
        return self._pygame.font.Font(None, max(8, size))

    def _show(self, frame: Any, fps: float) -> None:
        display = self._pygame.display
        if self._window is None:
            self._window = display.set_mode(frame.get_size())
            display.set_caption("entropy-env")
        if any(event.type == self._pygame.QUIT for event in self._pygame.event.get()):
            self.close()
            return
        self._window.blit(frame, (0, 0))
        display.flip()
        self._clock.tick(fps)


class _Scene:
    """The canvas with its map from metres to pixels. Lengths in px are of the frame, before supersampling."""

    def __init__(self, pygame: ModuleType, canvas: Any, size: np.ndarray, scale: float, corner: np.ndarray) -> None:
        self.canvas, self._size, self._scale, self._corner = canvas, size, scale, corner
        self._pen = pygame.draw

    def pixels(self, points: Any) -> list[Any]:
        """(..., 2) m to nested lists of canvas coordinates, y down."""
        return np.rint(self._corner + np.asarray(points, float) * [self._scale, -self._scale]).astype(int).tolist()

    def length(self, metres: Any, least: float = 0.0) -> int:
        """Canvas pixels, at least `least` px of the frame."""
        return round(max(float(metres) * self._scale, least * SUPERSAMPLE))

    def draw_floor(self) -> None:
        self.canvas.fill(CANVAS)
        (left, bottom), (right, top) = self.pixels([[0, 0], self._size])
        edge = 3 * SUPERSAMPLE
        outside = (left - edge, top - edge, right - left + 2 * edge, bottom - top + 2 * edge)
        self._pen.rect(self.canvas, BORDER, outside, border_radius=edge)
        self._pen.rect(self.canvas, FLOOR, (left, top, right - left, bottom - top))
        steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
        spacing = next(step for step in steps if step * self._scale >= 40 * SUPERSAMPLE)
        for x in np.arange(spacing, self._size[0], spacing):
            self._pen.line(self.canvas, GRID, *self.pixels([[x, 0], [x, self._size[1]]]), SUPERSAMPLE)
        for y in np.arange(spacing, self._size[1], spacing):
            self._pen.line(self.canvas, GRID, *self.pixels([[0, y], [self._size[0], y]]), SUPERSAMPLE)

    def draw_lidar(self, state: SwarmState, params: SwarmParams, lidar: np.ndarray, alive: np.ndarray) -> None:
        if lidar.ndim != 2 or len(lidar) != len(alive):
            raise ValueError(f"lidar has shape {lidar.shape}, not ({len(alive)}, R)")
        turn = 2 * np.pi * np.arange(lidar.shape[1]) / lidar.shape[1]
        angle = np.asarray(state.heading, float)[:, None] + turn
        distance = float(params.agent_radius) + lidar * float(params.lidar_range)
        ray = distance[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        position = np.asarray(state.position, float)
        pale, strong = _tint(len(alive), 0.28), _tint(len(alive), 0.75)
        for agent in np.flatnonzero(alive):
            start = self.pixels(position[agent])
            ends = self.pixels(position[agent] + ray[agent])
            for end in ends:
                self._pen.line(self.canvas, pale[agent], start, end, SUPERSAMPLE)
            for end in itertools.compress(ends, lidar[agent] < 1):
                self._pen.circle(self.canvas, strong[agent], end, 2 * SUPERSAMPLE)

    def draw_trails(self, history: Sequence[tuple[int, np.ndarray]], params: SwarmParams) -> None:
        width = self.length(0.5 * params.agent_radius, least=1)
        step_length = 2 * float(params.max_wheel_speed) * float(params.dt)
        for age, ((step, start), (next_step, end)) in enumerate(itertools.pairwise(history), start=1):
            colours = _tint(len(start), 0.5 * age / len(history))
            moved = np.linalg.norm(end - start, axis=-1)
            # Further than the wheels could take it, the agent was put somewhere else. NaN, inactive, is false too.
            joined = np.flatnonzero(moved <= step_length * (next_step - step) + 2 * float(params.agent_radius))
            for agent, segment in zip(joined, self.pixels(np.stack([start, end], axis=1)[joined]), strict=True):
                self._pen.line(self.canvas, colours[agent], *segment, width)

    def draw_goals(self, state: SwarmState, params: SwarmParams, alive: np.ndarray) -> None:
        goals = np.asarray(state.layout.goals)[np.arange(len(alive)), np.asarray(state.goal_index)]
        centres, starts = self.pixels(goals), self.pixels(np.where(alive[:, None], state.position, 0))
        radius = self.length(params.goal_radius, least=2.5)
        thin = _tint(len(alive), 0.45)
        pale, strong = _tint(len(alive), 0.16), _tint(len(alive), 0.9)
        agents = np.flatnonzero(alive)
        if len(alive) <= CROWD:
            for agent in agents:
                self._pen.line(self.canvas, thin[agent], starts[agent], centres[agent], SUPERSAMPLE)
        for agent in agents:
            self._pen.circle(self.canvas, pale[agent], centres[agent], radius)
            self._pen.circle(self.canvas, strong[agent], centres[agent], radius, max(SUPERSAMPLE, radius // 6))

    def draw_obstacles(self, layout: Any, params: SwarmParams) -> None:
        for x, y, radius in np.asarray(layout.discs)[np.asarray(layout.disc_mask, bool)]:
            self._pen.circle(self.canvas, OBSTACLE, self.pixels([x, y]), self.length(radius, least=1))
        for x, y, half_width, half_height in np.asarray(layout.boxes)[np.asarray(layout.box_mask, bool)]:
            left, top = self.pixels([x - half_width, y + half_height])
            shape = self.length(2 * half_width, least=2), self.length(2 * half_height, least=2)
            self._pen.rect(self.canvas, OBSTACLE, (left, top, *shape))
        radius = self.length(params.wall_half_thickness, least=0.75)
        for start, end in self.pixels(np.asarray(layout.walls)[np.asarray(layout.wall_mask, bool)]):
            self._capsule(WALL, np.array(start), np.array(end), radius)

    def draw_robots(self, state: SwarmState, params: SwarmParams, alive: np.ndarray) -> None:
        agents = np.flatnonzero(alive)
        position, heading = np.asarray(state.position, float)[agents], np.asarray(state.heading, float)[agents]
        collided = np.asarray(state.collided, bool)[agents]
        centres = self.pixels(position)
        radius = self.length(params.agent_radius, least=2)
        for centre, hit in sorted(zip(centres, collided, strict=True), key=lambda pair: pair[1]):
            rim = 3 * SUPERSAMPLE if hit else SUPERSAMPLE
            self._pen.circle(self.canvas, ALERT if hit else FLOOR, centre, radius + rim)
        colours = _tint(len(alive), 1.0)
        for agent, centre in zip(agents, centres, strict=True):
            self._pen.circle(self.canvas, colours[agent], centre, radius)
        if radius >= 3.5 * SUPERSAMPLE:
            cos, sin = np.cos(heading), np.sin(heading)
            turn = np.stack([np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)], axis=-2)
            for arrow in self.pixels(position[:, None] + float(params.agent_radius) * ARROW @ turn):
                self._pen.polygon(self.canvas, FLOOR, arrow)

    def _capsule(self, colour: tuple[int, int, int], start: np.ndarray, end: np.ndarray, radius: int) -> None:
        along = (end - start) / max(np.linalg.norm(end - start), 1e-9)
        side = radius * np.array([-along[1], along[0]])
        self._pen.polygon(self.canvas, colour, [start + side, end + side, end - side, start - side])
        for centre in (start, end):
            self._pen.circle(self.canvas, colour, centre.tolist(), radius)


def _tint(num_agents: int, strength: float) -> list[list[int]]:
    """The agents' colours over the floor, as if drawn with this opacity."""
    return np.rint(strength * agent_colours(num_agents) + (1 - strength) * np.array(FLOOR)).astype(int).tolist()


def _import_pygame() -> ModuleType:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pygame 2.6 imports the deprecated pkg_resources
            import pygame
            import pygame.surfarray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("drawing needs pygame: pip install pygame") from error
    pygame.font.init()
    return pygame


def _start_display(pygame: ModuleType) -> None:
    """Without a display SDL either fails or falls back to a driver that shows nothing."""
    try:
        pygame.display.init()
        reason = "SDL found none" if pygame.display.get_driver() == "offscreen" else None
    except pygame.error as error:
        reason = str(error)
    if reason and not os.environ.get("SDL_VIDEODRIVER"):
        pygame.display.quit()
        raise RuntimeError(f'mode="human" needs a display ({reason}); mode="rgb_array" draws without one')
