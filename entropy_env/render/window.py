"""Windows that look after themselves: several at once, beside those of others, and again after someone ends pygame."""

from __future__ import annotations

import os
import warnings
import weakref
from types import ModuleType
from typing import Any

LEFT_FOR_OTHERS = 1000  # events on pygame's queue, the newest: nobody may be there to read them

_ours: weakref.WeakSet[Window] = weakref.WeakSet()
_lost: list[Any] = []  # of a video system that has ended: to free them could strike what took their place


class Window:
    """One window, which appears with the first frame. The one of `pygame.display` is left to others.

    When someone ends pygame it goes down, and the next frame opens it again. Once a user closes it, it stays closed.
    RuntimeError where there is no display.
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
        """Fill the window with a surface. Nothing happens once it is closed."""
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
        """What has happened to this window since the last call; it closes when it is told to.

        An event that names no window belongs to everyone here, unless `pygame.display` has a window of its own.
        """
        if self._pygame.display.get_init():
            _deliver(self._pygame)
        inbox, self._inbox = self._inbox, []
        return inbox

    def close(self) -> None:
        """Take this window down, and no other. May be called again."""
        if self._window is not None:
            if self._alive():
                self._canvas = None  # before its window
                self._window.destroy()
                self._window = None
            else:
                self._lose()
        self.closed = True

    def _alive(self) -> bool:
        """False after the video system ended, also if it has begun again: SDL then knows no such window."""
        return self._pygame.display.get_init() and self._window.title == self.title

    def _lose(self) -> None:
        _lost.append((self._window, self._canvas))
        self._window = self._canvas = None

    def _take(self, event: Any) -> None:
        if event.type in (self._pygame.WINDOWCLOSE, self._pygame.QUIT):
            self.close()
        self._inbox.append(event)


def import_pygame() -> ModuleType:
    """pygame, with what draws and writes. ModuleNotFoundError tells how to install it."""
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
    """Where pygame has windows beside the one of `pygame.display`."""
    from pygame._sdl2 import video

    return video


def _start_display(pygame: ModuleType) -> None:
    try:
        pygame.display.init()
    except pygame.error as error:
        reason = str(error)
    else:
        # Without a display SDL may choose a driver that shows nothing.
        if pygame.display.get_driver() != "offscreen" or os.environ.get("SDL_VIDEODRIVER"):
            return
        pygame.display.quit()
        reason = "SDL found none"
    raise RuntimeError(f"a window needs a display ({reason})")


def _deliver(pygame: ModuleType) -> None:
    """Sort what is on pygame's queue into the inboxes of our windows, and put back what is not ours."""
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
