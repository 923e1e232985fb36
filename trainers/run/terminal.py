"""Print messages to the user of a command."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line at once. Escapes characters that the terminal cannot show. A full disk does not end the training."""
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
    """Show warnings as plain lines on stderr, without their place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"{prefix}: {message}", sys.stderr)
        yield
