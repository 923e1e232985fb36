"""Words for whoever started a command."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line at once. What the terminal cannot show is escaped, and a full disk under it ends no training."""
    file = sys.stdout if file is None else file
    try:
        print(text, file=file, flush=True)
    except UnicodeEncodeError:
        print(text.encode(file.encoding, "backslashreplace").decode(file.encoding), file=file, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        pass


@contextlib.contextmanager
def warnings_as_lines(prefix: str = "warning") -> Iterator[None]:
    """Show warnings on stderr without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"{prefix}: {message}", sys.stderr)
        yield
