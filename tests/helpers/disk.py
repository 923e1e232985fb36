"""A disk that is full."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(room):
    """No file may grow beyond this many bytes: a write that would raises OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
