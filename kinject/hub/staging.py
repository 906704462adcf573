"""Gathers what a repository is to hold, in a directory of its own: the directory that is pushed is only read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kinject.errors import ConfigurationError
from kinject.hub.files import (
    ADAPTER_CONFIG,
    is_adapter,
    model_files,
    public_content,
    report_files,
    tokenizer_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Layout = Literal["native", "llada"]
_LINKED = ".safetensors"
_UNWRITTEN = "[More Information Needed]"


def stage(
    directory: Path,
    staged: Path,
    repository: str,
    *,
    merge: bool = False,
    layout: Layout = "native",
    base: str | None = None,
    include_documents: bool = False,
    report: Path | None = None,
) -> dict[str, Path]:
    """Put what is published of ``directory`` into ``staged``, with its card; weights that stay as they are stay there.

    Args:
        directory: Holds the adapter or the whole model.
        staged: Empty, and writable.
        repository: Where it is going to be published.
        merge: Publish a whole model made of the adapter and its base.
        layout: Key layout of a whole model.
        base: The base model's Hub id, where the adapter names another.
        include_documents: Publish questions and answers too, as runs with `--publish_documents` ask for.
        report: Where `results.json` lies, if not in ``directory``.

    Returns:
        The files by their names in the repository.

    Raises:
        ConfigurationError: the directory lacks something, or what is asked does not fit what it holds.
    """
    files = model_files(directory)
    _refuse_what_does_not_fit(directory, merge=merge, layout=layout, base=base)
    if merge or (not is_adapter(directory) and layout != _layout_of(directory)):
        _write_whole(directory, staged, merge=merge, layout=layout)
        files = model_files(staged) | tokenizer_files(staged)
    files |= tokenizer_files(directory) | report_files(report or directory)
    if "results.json" not in files:
        files.pop("accuracy.png", None)
        if "README.md" in files and _UNWRITTEN in files["README.md"].read_text(encoding="utf-8"):
            del files["README.md"]  # the form that peft leaves to be filled in; it may name a local base
    chosen = {}
    for name, path in files.items():
        content = public_content(name, path)
        target = staged / name
        chosen[name] = path if path.suffix == _LINKED else target
        if path == target and content is None or path.suffix == _LINKED:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            shutil.copyfile(path, target)
        else:
            target.write_bytes(content)
    if base is not None:
        _edit(staged / ADAPTER_CONFIG, base_model_name_or_path=base, revision=None)
    if "results.json" in chosen:
        from kinject.hub.card import write_card

        if base is not None:
            _edit(staged / "results.json", model=base, model_source="hub")
        chosen["README.md"] = write_card(staged, repository=repository, include_documents=include_documents)
        if (staged / "accuracy.png").is_file():
            chosen["accuracy.png"] = staged / "accuracy.png"
        published = include_documents or "document_texts" in json.loads((staged / "results.json").read_text("utf-8"))
        if not published:
            _edit(staged / "results.json", indent=1, answers=None)
    return chosen


def adapter_base(directory: Path) -> str:
    """The base model that the adapter in ``directory`` names."""
    return str(
        json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    )


def _refuse_what_does_not_fit(directory: Path, *, merge: bool, layout: str, base: str | None) -> None:
    adapter = is_adapter(directory)
    if layout not in ("native", "llada"):
        raise ConfigurationError(f"layout is {layout!r}; expected 'native' or 'llada'.")
    if merge and not adapter:
        raise ConfigurationError(f"'{directory}' holds a whole model: there is nothing to merge. Leave --merge out.")
    if base is not None and (merge or not adapter):
        raise ConfigurationError("--base is for adapters that are published as such. Leave it out.")
    if adapter and not merge and layout != "native":
        raise ConfigurationError(
            "an adapter has no key layout. Add --merge to publish a whole model in LLaDA's layout."
        )


def _layout_of(directory: Path) -> Layout:
    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return "llada" if fields.get("model_type") == "llada" and "hidden_size" not in fields else "native"


def _write_whole(directory: Path, staged: Path, *, merge: bool, layout: Layout) -> None:
    """Load what ``directory`` holds, merge it if asked, and save it in ``layout``."""
    from kinject.models import load_model, save_model

    loaded = load_model(str(directory), dtype="auto")
    model: Any = loaded.model
    if merge:
        model = model.merge_and_unload(safe_merge=True)
    save_model(model, staged, layout=layout, tokenizer=loaded.tokenizer)


def _edit(path: Path, *, indent: int = 2, **changes: Any) -> None:
    """Change fields of a JSON file; None takes one out."""
    fields = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {name: value for name, value in fields.items() if name not in changes or value is not None}
    path.write_text(json.dumps(kept, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def uploads(chosen: dict[str, Path]) -> Iterator[Any]:
    """The operations of a commit that put ``chosen`` into a repository."""
    from huggingface_hub import CommitOperationAdd

    for name, path in sorted(chosen.items()):
        yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
