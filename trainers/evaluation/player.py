"""Show policies playing in a window. Keys pause, step back and change the speed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from entropy_env.render import Renderer
from entropy_env.render.scene import ALERT, CANVAS, INK, MUTED, SHADE
from entropy_env.render.window import Window, import_pygame
from entropy_env.types import SwarmParams, SwarmSpec, SwarmState
from trainers.evaluation.film import TRAIL
from trainers.evaluation.play import Live, TimeStep, episode_key

HELP = "space pause  ·  left/right step  ·  +/- speed  ·  R new world  ·  L lidar  ·  T trails  ·  click follow  ·  Esc end"
HISTORY = 1000  # steps that one can go back
FPS = 60  # frame rate of the window; worlds run at their own speed
SPEEDS = tuple(2.0**power for power in range(-3, 5))  # times real time
REST = 2.0  # s, how long the end of an episode is shown
HOLD, REPEAT = 0.35, 0.05  # s until a key that is held down repeats, and between repeats
LARGEST, SMALLEST = (960, 720), 320  # px, size of the picture of one side
AROUND = (60, 150)  # px of the screen left free for the frame of the window and what is around it
MARGIN, TEXT, ROW, BOTTOM = 18, 24, 30, 10  # px


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the policies that are watched together, and its worlds."""

    name: str
    title: str
    spec: SwarmSpec
    params: SwarmParams
    live: Live


class Recording:
    """An episode that is played only as far as it has been watched. Its last HISTORY steps can be watched again."""

    def __init__(self, time_steps: Iterator[TimeStep]) -> None:
        self._coming, self._kept = time_steps, deque([next(time_steps)], maxlen=HISTORY + 1)
        self._played = 0  # steps so far

    @property
    def oldest(self) -> int:
        """The first step that is still kept."""
        return self._played - len(self._kept) + 1

    def at(self, step: int) -> TimeStep:
        """Return the time step after this many steps, or the last one if the episode ended before."""
        while self._played < step and not self._kept[-1].state.over:
            self._kept.append(next(self._coming))
            self._played += 1
        return self._kept[min(step, self._played) - self.oldest]

    def before(self, step: int, count: int) -> list[SwarmState]:
        """Return up to `count` states before a step, oldest first."""
        end = min(step, self._played) - self.oldest
        return [self._kept[index].state for index in range(max(0, end - count), end)]


class Player:
    """Shows one or two policies in a window, in the same worlds and at the same step.

    Raises RuntimeError if there is no display, ValueError if the worlds of the two differ or have no room for all agents.
    """

    def __init__(self, sides: Sequence[Side], seed: int = 0, sampled: bool = True) -> None:
        self._pygame = import_pygame()
        self.window = Window(f"entropy-env      {HELP}")
        self.sides, self.seed, self.sampled = sides, seed, sampled
        self.world, self.step = 0, 0
        self.paused, self.trails = False, True
        self.followed: int | None = None
        self._speed = SPEEDS.index(1.0)
        self._due = self._rested = 0.0  # steps still to play, s since the end of the episode
        self._held: tuple[int, float] | None = None  # direction of the arrow key that is down, s until it repeats
        screen = np.array(self._pygame.display.get_desktop_sizes()[0]) - AROUND - [0, 4 * ROW + BOTTOM]
        size = np.clip(screen // [len(sides), 1], SMALLEST, LARGEST)
        self._renderers = [Renderer(max_size=(int(size[0]), int(size[1])), trails=TRAIL) for _ in sides]
        self._begin()
        for recording in self._recordings:
            recording.at(1)  # compiles now, before the window opens
        key = self._pygame
        self._keys = {
            key.K_ESCAPE: self.window.close,
            key.K_SPACE: self.pause,
            key.K_r: self.next_world,
            key.K_l: self.toggle_lidar,
            key.K_t: self.toggle_trails,
        }
        self._keys |= dict.fromkeys((key.K_PLUS, key.K_EQUALS, key.K_KP_PLUS), lambda: self.change_speed(1))
        self._keys |= dict.fromkeys((key.K_MINUS, key.K_KP_MINUS), lambda: self.change_speed(-1))
        self._arrows = {key.K_RIGHT: 1, key.K_LEFT: -1}

    @property
    def time_steps(self) -> list[TimeStep]:
        """The time step that each side shows now."""
        return [recording.at(self.step) for recording in self._recordings]

    @property
    def over(self) -> bool:
        """Whether the episode has ended on every side."""
        return all(bool(time_step.state.over) for time_step in self.time_steps)

    @property
    def speed(self) -> float:
        """The speed, in times real time."""
        return SPEEDS[self._speed]

    def run(self) -> None:
        """Play until the window is closed."""
        clock = self._pygame.time.Clock()
        while not self.window.closed:
            for event in self.window.events():
                self.handle(event)
            self.advance(min(clock.tick(FPS) / 1000, 0.25))
            if self._stale and not self.window.closed:
                self.draw()

    def handle(self, event: Any) -> None:
        """Act on a key or a click."""
        pygame = self._pygame
        if event.type == pygame.KEYDOWN and event.key in self._arrows:
            self.paused, self._held = True, (self._arrows[event.key], HOLD)
            self.move(self._arrows[event.key])
        elif event.type == pygame.KEYUP and event.key in self._arrows:
            self._held = None
        elif event.type == pygame.KEYDOWN:
            typed = {"+": pygame.K_PLUS, "-": pygame.K_MINUS}.get(getattr(event, "unicode", ""), event.key)
            self._keys.get(typed, lambda: None)()
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
            self.followed = self._agent_at(*event.pos)
        elif event.type not in (pygame.WINDOWEXPOSED, pygame.VIDEOEXPOSE):
            return
        self._stale = True

    def advance(self, elapsed: float) -> None:
        """Let time pass. elapsed: s. Plays the steps that are due, repeats a key that is down, begins the next world."""
        if self._held is not None:
            direction, wait = self._held
            wait -= elapsed
            while wait <= 0:
                wait += REPEAT
                self.move(direction)
            self._held = direction, wait
        if self.paused:
            return
        if self.over:
            self._rested += elapsed
            if self._rested >= REST:
                self.next_world()
            return
        self._due += elapsed * self.speed / float(self.sides[0].params.dt)
        while self._due >= 1 and self.move(1):
            self._due -= 1

    def move(self, steps: int) -> bool:
        """Go a number of steps forward or back, as far as possible. Returns whether the step has changed."""
        oldest = max(recording.oldest for recording in self._recordings)
        target = self.step if steps > 0 and self.over else max(self.step + steps, oldest)
        if target == self.step:
            self._due = 0.0
            return False
        self.step, self._rested, self._stale = target, 0.0, True
        return True

    def pause(self) -> None:
        self.paused = not self.paused

    def change_speed(self, steps: int) -> None:
        self._speed = int(np.clip(self._speed + steps, 0, len(SPEEDS) - 1))

    def next_world(self) -> None:
        self.world += 1
        self._begin()

    def toggle_lidar(self) -> None:
        for renderer in self._renderers:
            renderer.show_lidar = not renderer.show_lidar

    def toggle_trails(self) -> None:
        self.trails = not self.trails

    def _begin(self) -> None:
        key = episode_key(self.seed, self.world)
        self._recordings = [Recording(side.live(key, self.sampled)) for side in self.sides]
        self.step, self._due, self._rested, self._stale = 0, 0.0, 0.0, True
        layouts = [time_step.state.layout for time_step in self.time_steps]
        if not all(layout.valid for layout in layouts):
            raise ValueError(f"world {self.world} of seed {self.seed} could not fit everything")
        if any(
            not np.array_equal(getattr(layouts[0], name), getattr(layouts[-1], name)) for name in ("spawns", "goals")
        ):
            names = " and ".join(side.name for side in self.sides)
            raise ValueError(
                f"{names} cannot play in the same worlds: the parameters of their tasks give different ones"
            )

    def draw(self) -> None:
        """Draw the current time steps into the window."""
        pygame = self._pygame
        pygame.font.init()
        pictures = []
        for side, recording, renderer, time_step in zip(
            self.sides, self._recordings, self._renderers, self.time_steps, strict=True
        ):
            renderer.retrace(recording.before(self.step, TRAIL) if self.trails else [])
            lidar = time_step.obs[:, side.spec.slice("lidar")]
            frame = renderer.draw(
                time_step.state, side.params, lidar, title=side.title, focus=self.followed, spec=side.spec,
                attention=time_step.attention,
            )  # fmt: skip
            assert frame is not None
            pictures.append(pygame.surfarray.make_surface(frame.swapaxes(0, 1)))

        self._lefts = np.cumsum([0, *(picture.get_width() for picture in pictures)])
        height = pictures[0].get_height()
        canvas = pygame.Surface((int(self._lefts[-1]), height + 4 * ROW + BOTTOM))
        canvas.fill(CANVAS)
        for side, time_step, picture, left in zip(self.sides, self.time_steps, pictures, self._lefts[:-1], strict=True):
            canvas.blit(picture, (left, 0))
            row = pygame.Rect(left, height, picture.get_width(), ROW).inflate(-2 * MARGIN, 0)
            self._write(canvas, row, [(side.name, INK)])
            self._write(canvas, row.move(0, ROW), _figures(time_step, side.spec))
        row = pygame.Rect(0, height + 2 * ROW, canvas.get_width(), ROW).inflate(-2 * MARGIN, 0)
        pygame.draw.line(canvas, SHADE, row.topleft, row.topright)
        self._write(canvas, row, self._status())
        self._write(canvas, row.move(0, ROW), [(HELP, MUTED)])
        self._stale = False
        self.window.show(canvas)

    def _status(self) -> list[tuple[str, Any]]:
        words = [("world  ", MUTED), (f"{self.world}", INK), ("      seed  ", MUTED), (f"{self.seed}", INK)]
        words += [("      speed  ", MUTED), (f"{self.speed:g} x", INK)]
        words += [("      actions  ", MUTED), ("sampled" if self.sampled else "mean", INK)]
        if self.followed is not None:
            words += [("      following robot  ", MUTED), (f"{self.followed}", INK)]
        return words + [("      paused", ALERT)] * self.paused

    def _write(self, canvas: Any, row: Any, words: Sequence[tuple[str, Any]]) -> None:
        """Write words one after another from the left, in smaller letters if they would not fit."""
        text = "".join(word for word, _ in words)
        font = self._pygame.font.Font(None, TEXT)
        if font.size(text)[0] > row.width:
            font = self._pygame.font.Font(None, max(1, TEXT * row.width // font.size(text)[0]))
        left, top = row.left, row.centery - font.get_height() // 2
        for word, colour in words:
            canvas.blit(font.render(word, True, colour), (left, top))
            left += font.size(word)[0]

    def _agent_at(self, x: int, y: int) -> int | None:
        """Return the robot at a pixel of the window, or None."""
        for renderer, left, right in zip(self._renderers, self._lefts, self._lefts[1:], strict=False):
            if left <= x < right:
                return renderer.agent_at(x - int(left), y)
        return None


def _figures(time_step: TimeStep, spec: SwarmSpec) -> list[tuple[str, Any]]:
    state, carriers = time_step.state, slice(spec.num_scouts, None)
    figures = {
        "success": f"{np.mean(state.goals_reached[carriers] > 0):.0%}",
        "steps": f"{state.step}",
        "return": f"{time_step.total_reward[carriers].mean():.2f}",
    }
    words = [part for name, value in figures.items() for part in ((f"{name}  ", MUTED), (f"{value}      ", INK))]
    return words + [("ended", MUTED)] * bool(state.over)
