"""Write frames to a GIF or an MP4, with the ffmpeg that comes with imageio-ffmpeg."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

# Players assume that an unmarked video of this size is BT.709, but by default ffmpeg converts to BT.601.
BT709 = ["-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"]
ENCODING = {
    ".gif": ["-filter_complex", "split[all][used];[all]palettegen[palette];[used][palette]paletteuse=dither=none"],
    ".mp4": ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", *BT709, "-movflags", "+faststart"],
}
MAX_GIF_FPS = 50  # browsers slow down faster ones


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float = 10.0) -> Path:
    """Write frames (H, W, 3) uint8, all of one size, at fps. Returns the path.

    The suffix, .gif or .mp4, chooses the format. Missing parent folders are made. The file appears only once it is
    complete and on disk; if anything fails, an older file stays as it was. An MP4 repeats the last row or column of an
    odd size. A GIF has one palette for all frames, so ffmpeg holds all of them in memory.
    Raises ValueError for an unknown suffix, a bad fps or a bad frame, RuntimeError if ffmpeg fails.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not 0 < fps < float("inf") or (suffix == ".gif" and fps > MAX_GIF_FPS):
        raise ValueError(f"{fps=} must be positive" + f", at most {MAX_GIF_FPS} for a GIF" * (suffix == ".gif"))
    with _whole(path) as temporary:
        _encode(temporary, _checked(frames, even=suffix == ".mp4"), fps, ENCODING[suffix])
    return path


def check_video_path(path: str | os.PathLike[str]) -> None:
    """Check that `write_video` can write to a path. Leaves no file behind.

    Raises ValueError for an unknown suffix, OSError if no file can be written there.
    """
    path = Path(path)
    _suffix(path)
    there = next(folder for folder in (*path.parents, Path()) if folder.exists())
    _new_file(there, path).unlink()


def side_by_side(path: str | os.PathLike[str], left: str | os.PathLike[str], right: str | os.PathLike[str]) -> Path:
    """Write two videos of the same height next to each other into a GIF. Returns its path.

    The shorter one ends on a still frame. Raises RuntimeError if ffmpeg cannot read one of them.
    """
    both = ENCODING[".gif"][1].replace("split", "[0][1]hstack[both];[both]split", 1)
    with _whole(Path(path)) as temporary:
        inputs = [*_named(Path(left), "-i"), *_named(Path(right), "-i")]
        command = [*_ffmpeg(), *inputs, "-filter_complex", both, *_named(temporary)]
        # No stdin: ffmpeg reads keys from a terminal, and would be stopped if it runs in the background.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ffmpeg could not write {path}: {done.stderr.decode(errors='replace').strip()}")
    return Path(path)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write to, and move it to path once it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new_file(path.parent, path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in ENCODING:
        raise ValueError(f"cannot write {path.name!r}: the suffix must be {' or '.join(ENCODING)}")
    return suffix


def _new_file(folder: Path, path: Path) -> Path:
    """Make an empty file with a unique name in a folder.

    Raises OSError naming path if that fails, or if no file can be called path.
    """
    file = folder / f".video-{uuid.uuid4().hex}{path.suffix.lower()}"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with contextlib.suppress(FileNotFoundError):
            (folder / path.name).lstat()  # raises if the name is too long
        file.touch()
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    return file


def _named(path: Path, *option: str) -> list[str]:
    """Return the arguments that name a file to ffmpeg. It then takes no colon for a protocol and no % for a frame number."""
    return ["-f", path.suffix.lower()[1:], *option, f"file:{path}"]


def _ffmpeg() -> list[str]:
    import imageio_ffmpeg

    return [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]


def _checked(frames: Iterable[np.ndarray], even: bool) -> Iterator[np.ndarray]:
    shape = None
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame {index} is {frame.dtype} {frame.shape}, not uint8 (H, W, 3)")
        if frame.shape != shape:
            raise ValueError(f"frame {index} has shape {frame.shape}, but the first has {shape}")
        if even and (shape[0] % 2 or shape[1] % 2):
            frame = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
        yield np.ascontiguousarray(frame)


def _encode(path: Path, frames: Iterator[np.ndarray], fps: float, encoding: list[str]) -> None:
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    size, rate = f"{first.shape[1]}x{first.shape[0]}", str(Fraction(float(fps)).limit_denominator(1000))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    command = [*_ffmpeg(), *source, *encoding, *_named(path)]
    ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ffmpeg.stdin is not None
    try:
        for frame in chain([first], frames):
            try:
                ffmpeg.stdin.write(frame.data)
            except BrokenPipeError:
                break  # ffmpeg has stopped; its message is read below
    except BaseException:
        ffmpeg.kill()
        raise
    finally:
        message = ffmpeg.communicate()[1].decode(errors="replace").strip()
    if ffmpeg.returncode:
        raise RuntimeError(f"ffmpeg could not write {path.name}: {message}")
