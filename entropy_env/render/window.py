"""Windows that leave the rest of pygame alone.

Several can be open at once, next to windows of other code. They open again after other code has called `pygame.quit`.
"""

from __future__ import annotations

import os
import warnings
import weakref
from types import ModuleType
from typing import Any

LEFT_FOR_OTHERS = 1000  # events put back for other code, the newest; a limit, because perhaps nobody reads them

_ours: weakref.WeakSet[Window] = weakref.WeakSet()
_lost: list[Any] = []  # windows of a video system that has ended; kept, because freeing them could free newer objects


class Window:
    """A window that appears with its first frame. It is not the window of `pygame.display`, which other code may use.

    If other code ends pygame, the window disappears, and the next frame opens it again. Once a user closes it, it stays
    closed. Raises RuntimeError if there is no display.
    """

    def __init__(self, title: str) -> None:
        self._pygame = import_pygame()
        self.title, self.closed = title, False
        self._window: Any = None
        self._canvas: Any = None
        self._inbox: list[Any] = []
        _start_display(self._pygame)
        _ours.add(self)

    def show(self, frame: Any) -> None:
        """Fill the window with a surface. Does nothing once it is closed."""
        if self.closed:
            return
        video = _import_video()
        if self._window is not None and not self._alive():
            for window in _ours:
                window._lose()
        if self._window is None:
            _start_display(self._pygame)
            self._window = video.Window(self.title, frame.get_size())
            self._canvas = video.Renderer(self._window, accelerated=0)
        video.Texture.from_surface(self._canvas, frame).draw()
        self._canvas.present()

    def events(self) -> list[Any]:
        """Return this window's events since the last call. The window closes if one of them asks for it.

        An event that names no window goes to all our windows, unless `pygame.display` has a window too.
        """
        if self._pygame.display.get_init():
            _deliver(self._pygame)
        inbox, self._inbox = self._inbox, []
        return inbox

    def close(self) -> None:
        """Close this window and no other. May be called again."""
        if self._window is not None:
            if self._alive():
                self._canvas = None  # must be freed before its window
                self._window.destroy()
                self._window = None
            else:
                self._lose()
        self.closed = True

    def _alive(self) -> bool:
        """Return False once the video system has ended, even if it runs again: SDL no longer knows this window then."""
        return self._pygame.display.get_init() and self._window.title == self.title

    def _lose(self) -> None:
        _lost.append((self._window, self._canvas))
        self._window = self._canvas = None

    def _take(self, event: Any) -> None:
        if event.type in (self._pygame.WINDOWCLOSE, self._pygame.QUIT):
            self.close()
        self._inbox.append(event)


def import_pygame() -> ModuleType:
    """Import pygame with what draws shapes and text. Raises ModuleNotFoundError that says how to install it."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pygame 2.6 imports the deprecated pkg_resources
            import pygame
            import pygame.surfarray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("drawing needs pygame: pip install pygame") from error
    return pygame


def _import_video() -> ModuleType:
    """Import the part of pygame that can open several windows."""
    from pygame._sdl2 import video

    return video


def _start_display(pygame: ModuleType) -> None:
    try:
        pygame.display.init()
    except pygame.error as error:
        reason = str(error)
    else:
        # Without a display, SDL may choose a driver that shows nothing.
        if pygame.display.get_driver() != "offscreen" or os.environ.get("SDL_VIDEODRIVER"):
            return
        pygame.display.quit()
        reason = "SDL found none"
    raise RuntimeError(f"a window needs a display ({reason})")


def _deliver(pygame: ModuleType) -> None:
    """Move the events on pygame's queue to the inboxes of our windows. Put back those of other code."""
    open_windows = [window for window in _ours if not window.closed]
    owners = {id(window._window): window for window in open_windows if window._window is not None}
    others_window = pygame.display.get_surface() is not None
    rest = []
    for event in pygame.event.get():
        where = getattr(event, "window", None)
        if id(where) in owners:
            owners[id(where)]._take(event)
        elif where is not None or others_window:
            rest.append(event)
        else:
            for window in open_windows:
                window._take(event)
    for event in rest[-LEFT_FOR_OTHERS:]:
        pygame.event.post(event)
