"""What the documentation says: its fenced blocks and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SEPARATORS = re.compile(r"&&|;|\|")
_FENCE = re.compile(r"^```(?P<language>\w*).*?\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [match["text"] for match in found if match["language"] in languages]


def commands(text: str) -> list[list[str]]:
    """The arguments of every `neuromix ...`, also behind `&&` and `;`, without comments and prompts."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in _SEPARATORS.split(line.strip().removeprefix("$ "))]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("neuromix ")]
