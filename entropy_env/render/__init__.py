"""Pictures of worlds: frames, windows and videos."""

from entropy_env.render.scene import Renderer

__all__ = ["Renderer"]
