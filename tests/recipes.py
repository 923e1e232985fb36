"""The code of examples/clients.md."""

from __future__ import annotations

import re

from commands import ROOT


def recipe(title):
    """The Python of the section of that title."""
    text = (ROOT / "examples" / "clients.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [part for part in section if part.splitlines()[0] == title]
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", found, re.MULTILINE | re.DOTALL))
