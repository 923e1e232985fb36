"""Draw worlds with pygame, off-screen into an array or in a window.

pygame is imported when the first `Renderer` is made. `rgb_array` never uses the video system, so it works on machines
without a display.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from entropy_env.render.scene import BORDERS, SUPERSAMPLE, Scene, as_numpy, seen_in
from entropy_env.render.window import Window, import_pygame
from entropy_env.render.words import check_attention, who_hears

if TYPE_CHECKING:
    from entropy_env.types import SwarmParams, SwarmSpec, SwarmState

RenderMode = Literal["rgb_array", "human"]


class Renderer:
    """Draws worlds, one frame per call of `draw`.

    With more than `CROWD` robots it draws only robots, contacts, trails, and goals as a shade on the floor. Lines to goals,
    lidar and labels would hide everything else. Trails then have fewer corners, the more robots there are.

    A robot that has just said a word glows in the word's colour. With up to `WORDY` robots in view the word stands beside it,
    with more the words stand below the arena. Lines, which need the `spec`, go from each speaker to whom hears it now.

    The first arena drawn sets the size of the frame, with both sides even. Later arenas are scaled to fit it, so the
    frames of a curriculum still make one video.

    mode: `rgb_array` returns frames, `human` shows them in its own window.
    max_size: px, the largest width and height of a frame.
    show_lidar: draw the readings given to `draw`.
    trails: how many past positions to join to a trail behind each agent.
    fps: frames per second in `human`; None for real time, 1 / dt.
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
        if min(max_size) < 80:
            raise ValueError(f"{max_size=} must be at least 80 px each way")
        if trails < 0:
            raise ValueError(f"{trails=} must not be negative")
        if fps is not None and not fps > 0:
            raise ValueError(f"{fps=} must be positive")
        self.mode, self.show_lidar, self.fps = mode, show_lidar, fps
        self._max_size = np.array(max_size) // 2 * 2
        self._margin = int(self._max_size.min()) // 40
        self._history: deque[tuple[int, np.ndarray]] = deque(maxlen=operator.index(trails) + 1)
        self._canvas: Any = None
        self._clock: Any = None
        self._scene: Scene | None = None
        self._window: Window | None = None
        self._pygame = import_pygame()
        if mode == "human":
            try:
                self._window = Window("entropy-env")
            except RuntimeError as error:
                raise RuntimeError(f'mode="human": {error}; mode="rgb_array" draws without one') from error

    @property
    def closed(self) -> bool:
        """True once its window is closed."""
        return self._window is not None and self._window.closed

    def draw(
        self,
        state: SwarmState,
        params: SwarmParams,
        lidar: Any = None,
        labels: Sequence[str] | None = None,
        title: str = "",
        focus: int | None = None,
        spec: SwarmSpec | None = None,
        attention: Any = None,
    ) -> np.ndarray | None:
        """Draw one frame and return it, (H, W, 3) uint8. In `human` show it and return None; a closed window stays closed.

        state, params: of a single world, with NumPy or JAX leaves. lidar: (N, R) in [0, 1]. labels: N short strings,
        written above the robots. title: written at the top right. focus: index of an agent to show from close by.
        spec: of the same world; without it nothing is shown of who hears whom. attention: (N, comm_neighbours) weights of
        what each listener hears, at least 0; lines are stronger the more they have.
        """
        if self.closed:
            return None
        self._pygame.font.init()  # other code may have called pygame.quit() since the last frame
        state, params = as_numpy(state), as_numpy(params)
        if state.position.ndim != 2:
            raise ValueError(f"one world is drawn at a time: position has shape {state.position.shape}, not (N, 2)")
        if lidar is not None and (np.ndim(lidar) != 2 or len(lidar) != len(state.position)):
            raise ValueError(f"lidar has shape {np.shape(lidar)}, not ({len(state.position)}, R)")
        hearing = who_hears(state, params, spec) if spec is not None and state.words is not None else None
        if attention is not None:
            attention = check_attention(attention, state, spec)
        if self._canvas is None:
            self._canvas = self._pygame.Surface(SUPERSAMPLE * self._frame_size(np.asarray(state.layout.size)), 0, 32)
        scene = self._scene = Scene(self._pygame, self._canvas, state, params, SUPERSAMPLE * self._margin, focus)
        self._remember(int(state.step), scene.seen)

        scene.draw_floor()
        scene.draw_links()
        scene.draw_obstacles()
        if hearing is not None:
            scene.draw_hearing(hearing, attention)
        if self.show_lidar and lidar is not None:
            scene.draw_lidar(np.asarray(lidar))
        scene.draw_trails(self._history)
        scene.draw_goals()
        scene.draw_auras()
        scene.draw_robots()
        if labels is not None:
            scene.write_labels(labels)
        scene.write_words()
        scene.write_status(title)

        frame = self._pygame.transform.smoothscale(self._canvas, np.array(self._canvas.get_size()) // SUPERSAMPLE)
        if self._window is not None:
            self._show(self._window, frame, self.fps or 1 / float(params.dt))
            return None
        return np.ascontiguousarray(self._pygame.surfarray.array3d(frame).swapaxes(0, 1))

    def close(self) -> None:
        """Close the window, if there is one. May be called again."""
        if self._window is not None:
            self._window.close()

    def retrace(self, states: Iterable[SwarmState]) -> None:
        """Draw the trails of the next frame through these states, oldest first, instead of those drawn before."""
        self._history.clear()
        for state in map(as_numpy, states):
            self._remember(int(state.step), seen_in(state))

    def agent_at(self, x: int, y: int) -> int | None:
        """Return the active agent at a pixel of the last frame, the nearest if several are close, or None."""
        return None if self._scene is None else self._scene.agent_at(np.array([x, y]) * SUPERSAMPLE)

    def _frame_size(self, arena: np.ndarray) -> np.ndarray:
        border = self._margin * BORDERS
        tight = np.ceil(arena * ((self._max_size - border) / arena).min()) + border
        size = np.clip(tight, self._max_size // [2, 4], self._max_size).astype(int)
        return size + size % 2

    def _remember(self, step: int, points: np.ndarray) -> None:
        if self._history:
            last_step, last_points = self._history[-1]
            if step < last_step or points.shape != last_points.shape:
                self._history.clear()
            elif step == last_step:
                self._history.pop()
        self._history.append((step, points))

    def _show(self, window: Window, frame: Any, fps: float) -> None:
        window.events()
        window.show(frame)
        if not window.closed:
            self._clock = self._clock or self._pygame.time.Clock()
            self._clock.tick(fps)
