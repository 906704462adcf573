"""Text that may hold anything, made safe for a model card: it stays text, whatever Markdown or HTML it looks like.

Markdown renderers differ in what a backslash or an entity protects, in autolinks and in mathematics. All of them leave
code alone, so foreign text is only ever shown as code, under a fence longer than any that it holds. Tables hold no
foreign text.
"""

from __future__ import annotations

import re
import unicodedata

from kinject.errors import SECRET_VALUE

_REMOVED = "[removed]"
# Characters that reorder what a reader sees, and the mark that could make a file's first line another.
_UNSEEN = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\ufeff" + "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
)


def single_line(text: str, longest: int = 200) -> str:
    """``text`` on one line, without control characters and access tokens, cut at ``longest`` characters."""
    line = SECRET_VALUE.sub(_REMOVED, _visible(" ".join(text.split())))
    return line if len(line) <= longest else line[: longest - 1] + "\u2026"


def code(text: str, longest: int = 200) -> str:
    """``text`` as a code span."""
    line = single_line(text, longest) or " "
    fence = "`" * (_longest_run(line) + 1)
    # One space on either side is not shown; a backtick at the edge, or a text of spaces, needs it.
    edge = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{edge}{line}{edge}{fence}"


def fenced(text: str, language: str = "") -> str:
    """``text`` as a block of code, its lines as they are."""
    lines = "\n".join(
        map(_visible, SECRET_VALUE.sub(_REMOVED, text).replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    )
    fence = "`" * max(3, _longest_run(lines) + 1)
    return f"{fence}{language}\n{lines}\n{fence}"


def slug(text: str, longest: int = 80) -> str:
    """``text`` in letters, digits and hyphens of ASCII, and dots between digits: nothing that is markup or an address."""
    hyphenated = re.sub(r"(?!(?<=\d)\.(?=\d))[^A-Za-z0-9]", "-", text)
    return re.sub("-{2,}", "-", hyphenated)[:longest].strip("-.") or "model"


def redacted(text: str) -> str:
    """``text`` without access tokens, and encodable."""
    return SECRET_VALUE.sub(_REMOVED, text).encode("utf-8", "replace").decode("utf-8")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _visible(line: str) -> str:
    return "".join(
        character
        for character in line
        if character == "\t" or not (character in _UNSEEN or unicodedata.category(character) in ("Cc", "Cs"))
    )
