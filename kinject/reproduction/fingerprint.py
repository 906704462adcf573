"""What, besides its settings, decides the results of a run: kinject's code, and local documents, questions and models.

The code's fingerprint covers the modules that training, asking and scoring run through, and every other file of the package,
such as the nano models with their tokenizers and templates. It reads the code as Python does: comments, docstrings and
layout do not count, so that a better explanation makes no result stale. Versions of other packages are not part of it;
`results.json` records them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
# What shows, publishes or orders results, and never makes one.
_NO_RESULT = (
    "reproduction",
    "hub",
    "cli.py",
    "option_help.py",
    "_version.py",
    "evaluation/report.py",
    "evaluation/lm_eval.py",
    "evaluation/unmasking.py",
    "evaluation/qa_metric.py",
    "trainers/card_writing.py",
    "trainers/hub_pushing.py",
)
_COMPILED = (".pyc", ".pyo")
_LARGE = 64 * 2**20  # of a larger file, such as a model's weights, the size and both ends tell it from another
_END = 2**20


@cache
def code_fingerprint(package: Path = PACKAGE) -> str:
    """A hash of the code, and of the shipped models' files, that decide results."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package).as_posix()
        if relative.startswith(_NO_RESULT):
            continue
        if path.suffix == ".py":
            digest.update(f"{relative}\n{bare_code(path.read_text(encoding='utf-8'))}\n".encode())
        elif path.is_file() and path.suffix not in _COMPILED:
            digest.update(f"{relative}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def bare_code(source: str) -> str:
    """``source`` without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
            ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@cache
def data_fingerprint(documents: str, *others: str) -> str:
    """A hash of the local files behind ``documents``; empty for fictional worlds, Hub data sets and what is not there.

    Args:
        documents: As `--documents` takes them.
        others: Further files and folders that a run reads, such as its questions or its model; names of no such thing
            are passed over.
    """
    path = Path(documents).expanduser()
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not path.exists():  # in the published layout several data sets may share a folder: `wiki` is `wiki_*`
        files = sorted(path.parent.glob(f"{path.name}_*")) if path.parent.is_dir() else []
    for other in map(Path, others):
        files += sorted(each for each in other.rglob("*") if each.is_file()) if other.is_dir() else []
        files += [other] if other.is_file() else []
    return files_fingerprint(files) if files else ""


def files_fingerprint(files: Iterable[Path]) -> str:
    """A hash of the names and contents of ``files``."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\n" + _content(file))
    return digest.hexdigest()[:10]


def _content(file: Path) -> bytes:
    size = file.stat().st_size
    if size <= _LARGE:
        return file.read_bytes()
    with file.open("rb") as opened:
        beginning = opened.read(_END)
        opened.seek(-_END, 2)
        return f"{size}\n".encode() + beginning + opened.read()
