"""``results.json``: one run's settings, and its scores before, during and after training. Knows nothing of how they are made.

The file is written whole or not at all, so that a run that is killed leaves the last complete one. It holds no local path and
no access token, since it is made to be committed and published.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from importlib import metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from kinject.compat import cached_repository
from kinject.data.knowledge import DIRECTIONS, UNKNOWN
from kinject.errors import SECRET_VALUE, ConfigurationError, DataError

if TYPE_CHECKING:
    from kinject.data import Document, Question


SCHEMA = 1
_TEXTS = frozenset({"answers", "answers_before", "answers_kept", "learned"})
_LEARNED_CHARACTERS = 1_000_000
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface_hub",
    "deepspeed",
    "bitsandbytes",
)

_SECRET_KEY = re.compile(
    r"(^|_)(token|key|secret|password|passwd|credentials?)s?$|(hub|auth|access|api)_?(token|key)s?$"
)
_MODEL_TOKEN = re.compile(
    r"^(new|mask|masked|pad|bos|eos|unk|sep|cls|end|image|additional_special|max_new|num)_tokens?$"
)
# A path of this machine (absolute, home, Windows, file URL, or out of the working directory), alone or after a space, quote
# or "=".
_LOCAL_PATH = re.compile(r"""(?:^|(?<=[\s"'=,:(\[]))(?:file://|~?/(?=[^\s/])|\.\./|[A-Za-z]:[\\/])[^\s"',)\]]*""")

_CARD_MARKER = "kinject:"  # a key in the metadata of every card that kinject writes


class Measure(NamedTuple):
    """The names of a measure.

    Attributes:
        name: In a sentence.
        short: At the head of a column.
        reading: As an option, and in the tables of runs.
        metric: On the Hub.
    """

    name: str
    short: str
    reading: str
    metric: str


MEASURES = {
    "paper": Measure("ROUGE-1 recall", "recall", "paper", "rouge"),
    "exact_match": Measure("exact match", "exact match", "strict", "exact_match"),
    "f1": Measure("token F1", "F1", "f1", "f1"),
}
"""The measures by their key in `M`; `kinject.evaluation.measures` has the functions."""
SHOWN = ("paper", "exact_match")
"""The measures that tables and plots show: the paper's, and the strict one."""


def new_results(
    *,
    objective: str,
    model: str,
    dataset: str,
    paraphrases: str = "none",
    seed: int = 0,
    config: Any = None,
    **extra: Any,
) -> dict[str, Any]:
    """The results of a run that is about to start.

    Args:
        objective: ``masked``, ``ar``, ``reverse``, ``random_token`` or another objective's name.
        model: Hub id or path of the model that is trained; of a local path only the last part is kept.
        dataset: name of the knowledge set; of a local path only the last part is kept.
        paraphrases: which paraphrases the documents include.
        seed: the run's seed.
        config: settings of the run, a mapping or a dataclass instance; cleaned by :func:`public_config`.
        extra: further keys.
    """
    return {
        "schema": SCHEMA,
        "objective": objective,
        "model": public_name(model),
        "dataset": public_name(dataset),
        "paraphrases": paraphrases,
        "seed": seed,
        "config": public_config(config or {}),
        "versions": versions(),
        "before": None,
        "history": [],
        "after": None,
        "train": {"steps": 0, "tokens": 0, "flops": 0.0, "seconds": 0.0, "peak_memory_bytes": 0},
        **extra,
    }


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Check ``results`` and write what is :func:`published` of them to ``path``, atomically.

    Raises:
        DataError: a field does not fit the schema.
        ConfigurationError: the file cannot be written.
    """
    target = Path(path)
    plain = _plain(published(results))
    validate_results(plain, str(target))
    write_json(target, plain)


def is_card(file: Path) -> bool:
    """Whether ``file`` is a card that kinject wrote, by a key of its metadata, or the empty form that PEFT saves first."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    metadata = text[3:].partition("\n---")[0] if text.startswith("---\n") else ""
    blank = "\nlibrary_name: peft" in metadata and "# Model Card for Model ID" in text
    return f"\n{_CARD_MARKER}" in metadata or blank


def published(results: Mapping[str, Any]) -> dict[str, Any]:
    """``results`` as others may see them: settings by :func:`public_config`, model and dataset by :func:`public_name`."""
    return {
        **results,
        "config": public_config(results.get("config", {})),
        **{name: public_name(results[name]) for name in ("model", "dataset") if isinstance(results.get(name), str)},
    }


def as_json(results: Mapping[str, Any]) -> str:
    """``results`` as one JSON document, as :func:`write_results` writes them."""
    return json.dumps(_plain(published(results)), ensure_ascii=False, indent=1, allow_nan=False)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as JSON to ``path`` atomically, and create its folder.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, its line ends unchanged, and create its folder.

    Atomically: a temporary file beside ``path`` is written, synced and renamed.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigurationError(
            f"{target}: cannot be written ({error.strerror}); choose a folder you may write to, or free space in it"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``results`` that a comparison needs: no answers, no settings, the last evaluation only."""
    left_out = {"document_texts", "baselines", "config", "versions"}
    kept = without_texts({key: value for key, value in results.items() if key not in left_out})
    return {**kept, "history": kept["history"][-1:]}


def without_texts(results: Mapping[str, Any]) -> dict[str, Any]:
    """``results`` without questions, answers and documents: what is published by default."""
    kept = {key: value for key, value in results.items() if key not in _TEXTS}
    if "unknown" in kept:  # the number of these questions instead of the questions
        kept["unknown"] = {
            moment: {name: len(value) if isinstance(value, list) else value for name, value in measured.items()}
            for moment, measured in kept["unknown"].items()
        }
    for part in ("kept", "outdated"):
        if part in kept:
            kept[part] = {
                moment: {name: value for name, value in measured.items() if name != "answers"}
                if isinstance(measured, Mapping)
                else measured
                for moment, measured in kept[part].items()
            }
    return {**kept, "history": [{key: entry[key] for key in entry if key != "answers"} for entry in kept["history"]]}


def expected_answers(recorded: Mapping[str, Any]) -> list[str]:
    """All answers that an entry of ``answers`` accepts, the expected one first; older results have only that one."""
    return list(dict.fromkeys([recorded["expected"], *recorded.get("accepted", ())]))


def changed_settings(*groups: Any) -> dict[str, Any]:
    """The settings that differ from their defaults, by name."""
    changed: dict[str, Any] = {}
    for group in groups:
        for item in dataclasses.fields(group):
            value = getattr(group, item.name)
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            if value != default and isinstance(value, (str, int, float, bool, list, dict, type(None))):
                changed[item.name] = value
    return changed


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a ``results.json``, given as the file or as the folder that holds it.

    Raises:
        DataError: there is no such file, it is not JSON, or a field does not fit the schema.
    """
    source = Path(path)
    if source.is_dir():
        source = source / "results.json"
    try:
        results = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file; a run writes results.json into its output_dir") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = f" line {error.lineno}:" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{source}:{line} not JSON ({error}); expected a results.json that kinject wrote") from error
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror})") from error
    validate_results(results, str(source))
    return results


def answers_over_time(results: Mapping[str, Any]) -> list[tuple[int, list[str]]]:
    """The step of every evaluation (0 before training) with all its answers; empty if none were recorded."""
    found: list[tuple[int, list[str]]] = []
    before = results.get("answers_before")
    if before:
        found.append((0, list(before)))
    for entry in results["history"]:
        given = entry.get("answers")
        if given and (found or None not in given):
            earlier = found[-1][1] if found else given
            found.append(
                (entry["step"], [said if new is None else new for new, said in zip(given, earlier, strict=True)])
            )
    return found


def changed_answers(results: Mapping[str, Any], answers: Sequence[str]) -> list[str | None]:
    """``answers`` as an entry of the history stores them: None where the previous evaluation had the same answer."""
    earlier = answers_over_time(results)
    said = earlier[-1][1] if earlier else [None] * len(answers)
    return [None if new == old else new for new, old in zip(answers, said, strict=True)]


def validate_results(results: Any, source: str = "results") -> None:
    """Check ``results`` against the schema; ``before`` and ``after`` may be None while a run goes on.

    Raises:
        DataError: names ``source``, the field, what was expected and what was found.
    """
    _expect(isinstance(results, Mapping), source, "", "an object", results)
    _expect(results.get("schema") == SCHEMA, source, "schema", f"{SCHEMA}", results.get("schema"))
    for name in ("objective", "model", "dataset", "paraphrases"):
        _expect(isinstance(results.get(name), str), source, name, "a text", results.get(name))
    for name in ("config", "versions", "train"):
        _expect(isinstance(results.get(name), Mapping), source, name, "an object", results.get(name))
    _expect(isinstance(results.get("seed"), int), source, "seed", "a whole number", results.get("seed"))
    for name in ("before", "after"):
        _expect(name in results, source, name, "scores, or null while the run goes on", "nothing")
        if results[name] is not None:
            _check_scores(results[name], source, name)
    history = results.get("history")
    _expect(isinstance(history, list), source, "history", "a list", history)
    for index, entry in enumerate(results["history"]):
        field = f"history[{index}]"
        _expect(isinstance(entry, Mapping), source, field, "an object", entry)
        for name in ("step", "epoch", "tokens", "flops", "seconds"):
            _check_amount(entry.get(name), source, f"{field}.{name}")
        if index:
            later = entry["step"] > results["history"][index - 1]["step"]
            _expect(later, source, f"{field}.step", "a later step than the entry before", entry["step"])
        _check_scores(entry, source, field)
    for name in ("steps", "tokens", "flops", "seconds", "peak_memory_bytes"):
        _check_amount(results["train"].get(name), source, f"train.{name}")
    _check_texts(results, source)


def versions() -> dict[str, str]:
    """Versions of Python, kinject and those packages that a result depends on and that are installed."""
    from kinject import __version__

    found = {"python": platform.python_version(), "kinject": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def public_name(name: str) -> str:
    """``name`` as it may be published: a Hub id, also that of a path in the Hub cache; of another path the last part."""
    cached = cached_repository(name)
    if cached is not None:
        return cached
    local = PurePath(name).is_absolute() or _LOCAL_PATH.match(name) or name.startswith(("~", "./", "../"))
    return (_last_part(name) or "local") if local else name


def public_config(config: Any) -> dict[str, Any]:
    """Settings as plain JSON values, without secrets and without local paths.

    Keys that name a secret (``hub_token``, ``api_key``; not ``mask_token`` or ``max_new_tokens``) are dropped, and so are
    values that hold a Hub token. Of an absolute path only the last part is kept.

    Args:
        config: a mapping or a dataclass instance.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(config)}
    return {
        str(key): _public_value(value)
        for key, value in config.items()
        if not _names_secret(str(key)) and not (isinstance(value, str) and SECRET_VALUE.search(value))
    }


def _names_secret(key: str) -> bool:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()
    return bool(_SECRET_KEY.search(name)) and not _MODEL_TOKEN.match(name)


def _public_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return _public_value(value.value)
    if isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return public_config(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_public_value(item) for item in items if not (isinstance(item, str) and SECRET_VALUE.search(item))]
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, str):
        return _LOCAL_PATH.sub(lambda found: _without_folder(found[0]), value)
    return _plain(value)


def _without_folder(path: str) -> str:
    if re.fullmatch(r"/[^/]+", path) and not os.path.exists(path):
        return path  # a word such as "/no_think"
    return _last_part(path)


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types; numbers that JSON does not know (NaN, infinities) become null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if callable(getattr(value, "item", None)) and getattr(value, "size", None) == 1:  # a NumPy scalar
        return _plain(value.item())
    if type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    return getattr(value, "__name__", None) or f"<{type(value).__name__}>"


def _expect(holds: bool, source: str, field: str, expected: str, found: Any) -> None:
    if not holds:
        where = f"{source}: {field}" if field else source
        raise DataError(f"{where}: expected {expected}, got {str(found)[:80]!r}; kinject writes schema {SCHEMA}")


def _check_amount(value: Any, source: str, field: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    _expect(number, source, field, "a number that is not negative", value)


def _check_texts(results: Mapping[str, Any], source: str) -> None:
    """Check the questions, answers and documents, as far as there are any."""
    required: dict[str, tuple[str, ...]] = {
        "answers": ("question", "direction", "answer", "expected"),
        "learned": ("text",),
    }
    for name, fields in required.items():
        _expect(isinstance(results.get(name, []), list), source, name, "a list", results.get(name))
        for index, entry in enumerate(results.get(name, [])):
            _expect(isinstance(entry, Mapping), source, f"{name}[{index}]", "an object", entry)
            for field in fields:
                _expect(
                    isinstance(entry.get(field), str), source, f"{name}[{index}].{field}", "a text", entry.get(field)
                )
            accepted = entry.get("accepted", [])
            texts = isinstance(accepted, list) and all(isinstance(each, str) for each in accepted)
            _expect(texts, source, f"{name}[{index}].accepted", "a list of texts", accepted)
    size = None
    lists = {"answers_before": results.get("answers_before")}
    lists |= {f"history[{index}].answers": entry.get("answers") for index, entry in enumerate(results["history"])}
    for name, given in lists.items():
        if given:
            texts = isinstance(given, list) and all(each is None or isinstance(each, str) for each in given)
            _expect(texts, source, name, "a list of texts", given)
            size = size or len(given)
            _expect(len(given) == size, source, name, f"{size} answers", f"{len(given)}")
    _expect(None not in (lists["answers_before"] or ()), source, "answers_before", "texts only", "null")


def _check_scores(scores: Any, source: str, field: str) -> None:
    _expect(isinstance(scores, Mapping), source, field, "scores", scores)
    for direction in (*DIRECTIONS, *([UNKNOWN] if UNKNOWN in scores else [])):
        cell = scores.get(direction)
        _expect(isinstance(cell, Mapping), source, f"{field}.{direction}", "scores", cell)
        for name in MEASURES:
            value = cell.get(name)
            inside = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
            _expect(inside, source, f"{field}.{direction}.{name}", "a number in 0..1", value)
        counted = isinstance(cell.get("n"), int) and cell["n"] >= 0
        _expect(counted, source, f"{field}.{direction}.n", "a count", cell.get("n"))


def recorded_answers(questions: Sequence[Question], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Each question with its direction, the answer given, the answer expected and all accepted ones.

    ``document`` is the number of the fact that the question is about, where that is known.
    """
    return [
        {
            "question": question.question,
            "direction": question.direction,
            "answer": answer,
            "expected": question.answer,
            "accepted": list(question.answers),
            **({} if question.fact is None else {"document": question.fact}),
        }
        for question, answer in zip(questions, answers, strict=True)
    ]


def measured_before(results: Mapping[str, Any]) -> dict[str, Any]:
    """The measurements of the untrained model besides its scores, such as ``retention``, by name."""
    parts = {name: part for name, part in results.items() if isinstance(part, Mapping)}
    return {name: part["before"] for name, part in parts.items() if part.get("before") is not None}


def learned_documents(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """The first of ``documents``, up to a million characters in all, each with the number of the fact that it states.

    Title, file, id, entities and turns of conversation stand beside the text, so that a document can be taught again.
    """
    kept, size = [], 0
    for each in documents:
        size += len(each.titled_text)
        if size > _LEARNED_CHARACTERS:
            break
        known = {"entities": [*each.entities], "messages": [[*turn] for turn in each.messages], "title": each.title}
        known |= {"id": each.id, "file": each.source}
        kept.append({"document": each.fact, "text": each.titled_text} | {k: v for k, v in known.items() if v})
    return kept


_LARGE_FILE = 64 * 2**20  # bytes; only size and both ends of a larger file, such as a model's weights, are hashed
_FILE_END = 2**20  # bytes of such an end


def files_fingerprint(files: Iterable[Path]) -> str:
    """A hash of the names and contents of ``files``, in 10 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\n" + _content(file))
    return digest.hexdigest()[:10]


def _content(file: Path) -> bytes:
    size = file.stat().st_size
    if size <= _LARGE_FILE:
        return file.read_bytes()
    with file.open("rb") as opened:
        beginning = opened.read(_FILE_END)
        opened.seek(-_FILE_END, 2)
        return f"{size}\n".encode() + beginning + opened.read()
