"""The old name of `entropy_env.render.video`, for one more version."""

import warnings

from entropy_env.render.video import check_video_path, side_by_side, write_video

__all__ = ["check_video_path", "side_by_side", "write_video"]

warnings.warn("entropy_env.video is now entropy_env.render.video", DeprecationWarning, stacklevel=2)
