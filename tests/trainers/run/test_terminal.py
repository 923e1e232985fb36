"""Words reach any terminal, whatever it can show."""

import io
import sys

import pytest
from helpers.disk import full_disk

from trainers.run.terminal import say


@pytest.mark.parametrize(
    ("encoding", "errors", "text", "shown"),
    [
        ("utf-8", "strict", "café", "café".encode()),
        ("ascii", "strict", "café", rb"caf\xe9"),
        ("ascii", "surrogateescape", "caf\udce9", b"caf\xe9"),
        ("utf-8", "strict", "caf\udce9", rb"caf\udce9"),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(encoding, errors, text, shown, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors))
    say(text)
    assert sys.stdout.buffer.getvalue() == shown + b"\n"


def test_a_full_disk_under_the_output_ends_nothing(tmp_path):
    with (tmp_path / "log").open("w") as file:
        with full_disk(3):
            say("four", file)
        say("five", file)
    assert (tmp_path / "log").read_text() == "four\nfive\n"
