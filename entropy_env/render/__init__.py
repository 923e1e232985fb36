"""Pictures of worlds: frames, windows and videos."""

from entropy_env.render.renderer import Renderer

__all__ = ["Renderer"]
