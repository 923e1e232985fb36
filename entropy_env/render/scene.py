"""What a picture of one world shows, and in which colours: `Renderer` draws the parts one after the other."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from entropy_env.checks import NEVER
from entropy_env.render.words import arcs, free_place, glow, names
from entropy_env.types import TOKENS

SUPERSAMPLE = 3  # everything is drawn this many times larger, then averaged down
CROWD = 300  # with more agents, lines to goals, rings, lidar and labels would hide the scene
CLOSE_UP = 4.0  # m of the arena shown around an agent in focus; at most half of what is shown without focus
REACH = 6  # px; a click this close to a robot still counts as a click on it
WORDY = 30  # with more agents in view, the names of words would hide the scene
PLAIN = 0.4  # strength of a line to a listener where no attention is given; 1 is the most
FAINT = 0.1  # lines with less strength are not drawn
TRAIL_LINES = 50_000  # most trail lines of a crowd in one frame; each takes a microsecond or two to draw

CANVAS = (246, 247, 249)
FLOOR = (255, 255, 255)
GRID = (240, 242, 245)
WALL = (71, 85, 105)
OBSTACLE = (148, 163, 184)
SHADE = (226, 230, 236)
INK = (30, 41, 59)
MUTED = (123, 135, 152)
ALERT = (225, 29, 46)

BORDERS = np.array([2, 4])  # margins left and right of the arena, and above and below it; the status line takes two

# The corners of a robot's arrow. Forward is +x, and the robot's radius is 1.
ARROW = np.array([[0.72, 0.0], [-0.52, 0.50], [-0.26, 0.0], [-0.52, -0.50]])


@functools.lru_cache(maxsize=16)
def agent_colours(num_agents: int) -> np.ndarray:
    """Return one colour per agent, (N, 3) uint8. An index has the same colour for any number of agents.

    Hues follow the golden ratio, at three levels of lightness. Red is left out: it means contact.
    """
    index = np.arange(num_agents)
    return _colours(0.15 + 0.88 * ((0.5 + index * 0.6180339887) % 1.0), np.array([0.64, 0.72, 0.54])[index % 3], 0.145)


@functools.cache
def token_colours() -> np.ndarray:
    """Return one colour per token, (TOKENS, 3) uint8: more vivid than those of agents.

    Twelve hues, so that all words with a name differ, and yellow ones lighter; then the same twelve darker. No red.
    """
    token = np.arange(TOKENS)
    turn = 0.16 + 0.8 * ((5 * token + 9) % 12) / 12
    return _colours(turn, 0.72 + 0.1 * np.cos(2 * np.pi * (turn - 0.3)) - 0.12 * (np.maximum(token - 1, 0) // 12), 0.18)


def _colours(turn: np.ndarray, lightness: np.ndarray, chroma: float) -> np.ndarray:
    """Return colours (M, 3) uint8 of hues in turns, in OKLCH (Ottosson 2020)."""
    hue = 2 * np.pi * turn
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    cone = lab @ np.array([[1.0, 1.0, 1.0], [0.3963378, -0.1055613, -0.0894842], [0.2158038, -0.0638542, -1.2914855]])
    linear = cone**3 @ np.array(
        [[4.0767417, -1.2684380, -0.0041961], [-3.3077116, 2.6097574, -0.7034186], [0.2309699, -0.3413194, 1.7076147]]
    )
    colours = np.rint(255 * np.clip(linear, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8)
    colours.setflags(write=False)
    return colours


class Scene:
    """One world, with NumPy leaves, drawn on the canvas. Lengths are in canvas pixels; `px` are pixels of the frame."""

    def __init__(
        self, pygame: ModuleType, canvas: Any, state: Any, params: Any, margin: int, focus: int | None = None
    ) -> None:
        self._state, self._params, self._canvas, self._margin = state, params, canvas, margin
        self._pygame, self._font = pygame, lambda size: pygame.font.Font(None, max(1, size))
        shapes = ("line", "lines", "circle", "polygon", "rect")
        self._line, self._lines, self._circle, self._polygon, self._rect = (
            functools.partial(getattr(pygame.draw, shape), canvas) for shape in shapes
        )
        size = state.layout.size.astype(float)
        room = np.array(canvas.get_size()) - margin * BORDERS
        self._scale, centre, self._view, self._focus = (room / size).min(), size / 2, canvas.get_rect(), focus
        if focus is not None:
            self._scale = max(2 * self._scale, room.min() / CLOSE_UP)
            centre = state.position[focus].astype(float)
            self._view = pygame.Rect((margin, 3 * margin), room)
        self._origin = [margin, 3 * margin] + room / 2 + centre * [-self._scale, self._scale]
        (left, bottom), (right, top) = self._pixels([[0, 0], size]).tolist()
        self._floor = pygame.Rect(left, top, right - left, bottom - top)

        self.seen = seen_in(state)
        alive = np.isfinite(self.seen).all(axis=-1)
        self._agents = np.flatnonzero(alive)  # (M,) agents to draw; the arrays below have M rows
        self._hits = state.collided[self._agents]
        self._crowd = len(alive) > CROWD
        self._robots = self._pixels(state.position[self._agents])
        self._goals = self._pixels(state.layout.goals[self._agents, state.goal_index[self._agents]])
        self._robot_radius = self._length(params.agent_radius, px=2)
        self._token = np.zeros(len(self._agents), int)  # what they say
        if state.words is not None:
            self._token = state.words.token[self._agents, 0]
        self._visible = np.all((self._robots >= self._view.topleft) & (self._robots < self._view.bottomright), axis=-1)
        self._wordy = self._visible.sum() <= WORDY and not self._crowd
        self._labels: list[Any] = []  # where they are, pygame.Rect

    def _pixels(self, points: Any) -> np.ndarray:
        """Convert points (..., 2) m to canvas pixels, int, with y down."""
        return np.rint(self._origin + np.asarray(points, float) * [self._scale, -self._scale]).astype(int)

    def _length(self, metres: Any, px: float) -> int:
        """Convert a length to canvas pixels: at least `px` pixels of the frame, so nothing vanishes in a large arena."""
        return round(max(float(metres) * self._scale, px * SUPERSAMPLE))

    def _tint(self, strength: float, agents: np.ndarray) -> np.ndarray:
        """Return the colours (M, 3) int of agents (M,), as if drawn on the floor with this opacity."""
        return _on_floor(agent_colours(len(self.seen))[agents], strength)

    def draw_floor(self) -> None:
        self._canvas.set_clip(None)
        self._canvas.fill(CANVAS)
        self._canvas.set_clip(self._view)
        edge = 3 * SUPERSAMPLE
        self._rect(WALL, self._floor.inflate(2 * edge, 2 * edge), border_radius=edge)
        self._rect(FLOOR, self._floor)
        steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
        spacing = next(step for step in steps if step * self._scale >= 40 * SUPERSAMPLE)
        width, height = self._state.layout.size
        grid = [[(x, 0), (x, height)] for x in np.arange(spacing, width, spacing)]
        grid += [[(0, y), (width, y)] for y in np.arange(spacing, height, spacing)]
        for line in grid:
            self._line(GRID, *self._pixels(line).tolist(), SUPERSAMPLE)

    def draw_links(self) -> None:
        """Draw a thin line from each robot to its goal."""
        if self._crowd:
            return
        colours = self._tint(max(0.3, 0.6 - len(self.seen) / CROWD), self._agents)
        for colour, robot, goal in _rows(colours, self._robots, self._goals):
            self._line(colour, robot, goal, SUPERSAMPLE)

    def draw_hearing(self, who: np.ndarray, attention: np.ndarray | None) -> None:
        """Draw a line from each speaker to whom hears it, thick at the speaker. It is stronger where it gets attention.

        who: (N, K) as of `who_hears`. attention: (N, K), at least 0.
        """
        if self._crowd:
            return
        listener, slot = np.nonzero(who >= 0)
        strength = np.full(len(slot), PLAIN) if attention is None else np.sqrt(attention[listener, slot].clip(0, 1))
        order = np.flatnonzero(strength > FAINT)
        order = order[np.argsort(strength[order], kind="stable")]
        listener, speaker, strength = listener[order], who[listener, slot][order], strength[order]
        words = self._state.words.token
        token = words[speaker, np.clip(int(self._params.comm_delay), 0, words.shape[1] - 1)]
        colours = _on_floor(token_colours()[token], 0.1 + 0.7 * strength[:, None])
        start, end = self._pixels(self.seen[speaker]), self._pixels(self.seen[listener])
        widths = np.rint(SUPERSAMPLE * np.linspace(1 + 4 * strength, 1, 3)).astype(int)
        self._canvas.set_clip(self._floor.clip(self._view))
        lines = arcs(start, end, most=40 * SUPERSAMPLE).tolist()
        for colour, points, width in zip(colours.tolist(), lines, widths.T.tolist(), strict=True):
            for third in range(3):
                self._lines(colour, False, points[3 * third : 3 * third + 4], width[third])
        self._canvas.set_clip(self._view)

    def draw_obstacles(self) -> None:
        layout = self._state.layout
        self._canvas.set_clip(self._floor.clip(self._view))
        for x, y, radius in layout.discs[layout.disc_mask]:
            self._circle(OBSTACLE, self._pixels([x, y]).tolist(), self._length(radius, px=1))
        for x, y, half_width, half_height in layout.boxes[layout.box_mask]:
            sides = self._length(2 * half_width, px=2), self._length(2 * half_height, px=2)
            self._rect(OBSTACLE, (self._pixels([x - half_width, y + half_height]).tolist(), sides))
        radius = self._length(self._params.wall_half_thickness, px=0.75)
        for start, end in self._pixels(layout.walls[layout.wall_mask]):
            along = (end - start) / max(np.linalg.norm(end - start), 1e-9)
            side = radius * np.array([-along[1], along[0]])
            self._polygon(WALL, [start + side, end + side, end - side, start - side])
            for centre in (start, end):
                self._circle(WALL, centre.tolist(), radius)
        self._canvas.set_clip(self._view)

    def draw_lidar(self, lidar: np.ndarray) -> None:
        """Draw the rays from the robots' centres. A ray that hits something is darker and ends in a dot."""
        if self._crowd:
            return
        turn = 2 * np.pi * np.arange(lidar.shape[1]) / lidar.shape[1]
        angle = self._state.heading[:, None] + turn
        distance = self._params.agent_radius + lidar * self._params.lidar_range
        ends = self.seen[:, None] + distance[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        colours = (self._tint(strength, self._agents) for strength in (0.15, 0.32, 0.85))
        for (agent,), robot, free, blocked, dot in _rows(self._agents[:, None], self._robots, *colours):
            hit, pixels = lidar[agent] < 1, self._pixels(ends[agent]).tolist()
            for ray in np.argsort(hit, kind="stable"):
                self._line(blocked if hit[ray] else free, robot, pixels[ray], SUPERSAMPLE)
                if hit[ray]:
                    self._circle(dot, pixels[ray], 2 * SUPERSAMPLE)

    def draw_trails(self, history: Sequence[tuple[int, np.ndarray]]) -> None:
        width = self._length(0.5 * self._params.agent_radius, px=1)
        fastest = max(self._params.max_wheel_speed, np.max(np.linalg.norm(self._state.velocity, axis=-1)))
        speed, slack = 2 * fastest * self._params.dt, 2 * self._params.agent_radius
        stride = -(-len(history) * len(self.seen) // TRAIL_LINES) if self._crowd else 1
        corners = list(history)[::-stride][::-1]
        for age, ((step, start), (next_step, end)) in enumerate(itertools.pairwise(corners), start=1):
            # Do not join places further apart than an agent can drive: it respawned. Inactive agents are NaN: not joined.
            joined = np.linalg.norm(end - start, axis=-1) <= speed * (next_step - step) + slack
            colours = self._tint(0.5 * age / len(corners), np.flatnonzero(joined))
            for colour, tail, head in _rows(colours, self._pixels(start[joined]), self._pixels(end[joined])):
                self._line(colour, tail, head, width)

    def draw_goals(self) -> None:
        radius = self._length(self._params.goal_radius, px=2.5)
        if self._crowd:
            for (goal,) in _rows(self._goals):
                self._circle(SHADE, goal, radius)
            return
        for fill, ring, goal in _rows(self._tint(0.16, self._agents), self._tint(0.9, self._agents), self._goals):
            self._circle(fill, goal, radius)
            self._circle(ring, goal, radius, max(SUPERSAMPLE, radius // 6))

    def draw_auras(self) -> None:
        """Draw a glow in the colour of what it says around each robot that says something."""
        for token in np.unique(self._token[self._token > 0]).tolist():
            pixels, side = glow(self._robot_radius, tuple(token_colours()[token].tolist()))
            picture = self._pygame.image.frombuffer(pixels, (side, side), "BGRA")
            corners = self._robots[self._token == token] - side // 2
            near = np.all((corners > -side) & (corners < self._canvas.get_size()), axis=-1)
            for corner in corners[near].tolist():
                self._canvas.blit(picture, corner)

    def draw_robots(self) -> None:
        """Draw the robots. Rims, red in contact and else in the floor's colour, come first: none then hides a neighbour."""
        radius = self._robot_radius
        for (robot,) in _rows(self._robots[self._agents == self._focus]):
            self._circle(INK, robot, radius + 5 * SUPERSAMPLE, 2 * SUPERSAMPLE)
        alert = round(np.clip(0.3 * radius, 2 * SUPERSAMPLE, 3 * SUPERSAMPLE))
        for colour, rim, hit in ((FLOOR, SUPERSAMPLE, False), (ALERT, alert, True)):
            for (robot,) in _rows(self._robots[self._hits == hit]):
                self._circle(colour, robot, radius + rim)
        arrows = self._arrows() if radius >= 3.5 * SUPERSAMPLE else itertools.repeat(None)
        for (colour, robot), arrow in zip(_rows(self._tint(1.0, self._agents), self._robots), arrows, strict=False):
            self._circle(colour, robot, radius)
            if arrow:
                self._polygon(FLOOR, arrow)

    def _arrows(self) -> list[Any]:
        """Return the four corners of each robot's arrow, canvas pixels."""
        heading = self._state.heading[self._agents]
        cos, sin = np.cos(heading), np.sin(heading)
        turn = np.stack([cos, sin, -sin, cos], axis=-1).reshape(-1, 2, 2)
        corners = self.seen[self._agents, None] + self._params.agent_radius * ARROW @ turn
        return self._pixels(corners).tolist()

    def agent_at(self, place: np.ndarray) -> int | None:
        if not len(self._agents):
            return None
        distance = np.linalg.norm(self._robots - place, axis=-1)
        nearest = distance.argmin()
        return int(self._agents[nearest]) if distance[nearest] <= self._robot_radius + REACH * SUPERSAMPLE else None

    def write_labels(self, labels: Sequence[str]) -> None:
        if self._crowd:
            return
        font = self._font(self._margin * 5 // 6)
        for (agent,), (x, y) in _rows(self._agents[:, None], self._robots):
            place = x - font.size(labels[agent])[0] // 2, y - self._robot_radius - font.get_height()
            self._labels.append(self._canvas.blit(font.render(labels[agent], True, INK), place))

    def write_words(self) -> None:
        """Write what each robot says above it, or beside it where others are in the way.

        With many robots in view the words said now stand below the arena instead, the most frequent first.
        """
        speaking = np.flatnonzero(self._visible & (self._token > 0))
        font, colours = self._font(self._margin * 4 // 5), token_colours()
        if not self._wordy:
            self._write_legend(font, [token for token, _ in Counter(self._token[speaking].tolist()).most_common()])
            return
        gap, pad = self._robot_radius + 5 * SUPERSAMPLE, 4 * SUPERSAMPLE
        square = self._pygame.Rect(0, 0, 2 * self._robot_radius, 2 * self._robot_radius)
        taken = self._labels + [square.move(*(robot - self._robot_radius)) for robot in self._robots[self._visible]]
        for at in speaking[np.argsort(self._robots[speaking, 1], kind="stable")].tolist():
            token, robot = self._token[at], self._robots[at].tolist()
            colour = colours[token].tolist()
            text = font.render(names()[token], True, INK)
            size = text.get_width() + 2 * pad, text.get_height() + pad
            rect = free_place(size, robot, gap, taken, self._floor.clip(self._view))
            taken.append(rect)
            away = np.array(rect.center) - robot
            rim = robot + away * ((self._robot_radius + 3 * SUPERSAMPLE) / max(float(np.linalg.norm(away)), 1.0))
            self._line(colour, rim.tolist(), rect.center, SUPERSAMPLE)
            self._rect(_on_floor(colours[token], 0.35).tolist(), rect, border_radius=2 * pad)
            self._rect(colour, rect, SUPERSAMPLE, border_radius=2 * pad)
            self._canvas.blit(text, text.get_rect(center=rect.center))

    def _write_legend(self, font: Any, tokens: Sequence[int]) -> None:
        """Write the names of tokens below the arena, each behind a dot of its colour."""
        self._canvas.set_clip(None)
        left, middle = self._margin, self._canvas.get_height() - self._margin // 2
        for token in tokens:
            radius, text = font.get_height() // 3, font.render(names()[token], True, MUTED)
            self._circle(token_colours()[token].tolist(), (left + radius, middle), radius)
            self._canvas.blit(text, (left + 3 * radius, middle - text.get_height() // 2))
            left += 3 * radius + text.get_width() + self._margin

    def write_status(self, title: str) -> None:
        self._canvas.set_clip(None)
        if self._focus is not None:
            self._rect(SHADE, self._view, 2 * SUPERSAMPLE)
        state, reached, collisions = self._state, self._state.goals_reached, self._hits.sum()
        arrived = f"{(reached > 0).sum()}/{len(reached)}"
        words = [
            ("step  ", MUTED),
            (f"{state.step}" if self._params.max_steps == NEVER else f"{state.step}/{self._params.max_steps}", INK),
            ("      reached  ", MUTED),
            (arrived if reached.max() <= 1 else f"{reached.sum()} ({arrived} robots)", INK),
            ("      collisions  ", MUTED),
            (f"{collisions}", ALERT if collisions else INK),
        ]
        left, right = self._margin, self._canvas.get_width() - self._margin
        size, text = self._margin * 6 // 5, "".join(word for word, _ in words) + "      " * bool(title) + title
        font = self._font(min(size, size * (right - left) // self._font(size).size(text)[0]))
        y = (3 * self._margin - font.get_height()) // 2
        self._canvas.blit(font.render(title, True, MUTED), (right - font.size(title)[0], y))
        for word, colour in words:
            self._canvas.blit(font.render(word, True, colour), (left, y))
            left += font.size(word)[0]


def _on_floor(colours: np.ndarray, strength: Any) -> np.ndarray:
    """Return colours (..., 3) int as if drawn on the floor with this opacity."""
    return np.rint(strength * colours + (1 - strength) * np.array(FLOOR)).astype(int)


def seen_in(state: Any) -> np.ndarray:
    """Return the positions (N, 2) m of a state with NumPy leaves, NaN for agents that are not drawn."""
    return np.where((state.active & np.isfinite(state.position).all(axis=-1))[:, None], state.position, np.nan)


def _rows(*tables: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Yield one tuple per row of several arrays (M, K). Lists of ten thousand rows would start the garbage collector."""
    return zip(*(zip(*table.T.tolist(), strict=True) for table in tables), strict=True)


def as_numpy(node: Any) -> Any:
    """Return the same flax struct with NumPy leaves. None stays None."""
    if node is None:
        return None
    fields = getattr(node, "__dataclass_fields__", None)
    if fields is None:
        return np.asarray(node)
    return dataclasses.replace(node, **{name: as_numpy(getattr(node, name)) for name in fields})
