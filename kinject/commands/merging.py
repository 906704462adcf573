"""Merges the LoRA adapters of several runs on one base into one adapter, lists them, and removes one of them again.

A merged directory holds the adapter that is loaded and, under `parts/`, those that it was made of. So it can be merged further,
or again without one of them. What each part taught is asked again: the questions that its run recorded. Trains nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kinject.commands.keeping import recorded_knowledge
from kinject.compat import is_hub_id
from kinject.data.knowledge import DIRECTIONS, KnowledgeSet, Question
from kinject.errors import ConfigurationError
from kinject.models.names import adapter_settings, is_repository, require_model

PARTS = "parts"
COMBINATIONS = ("cat", "svd", "linear", "ties")
"""How peft adds adapters up: `cat` exactly, with the sum of their ranks; `svd` to the largest of their ranks; `linear` and
`ties` for equal ranks, roughly."""
_FILES = ("adapter_config.json", "adapter_model.safetensors", "results.json", "diffusion.json")


@dataclass(frozen=True)
class Part:
    """An adapter of a run.

    Attributes:
        name: By which it is listed and removed.
        place: Its directory, or its Hub id.
        config: Its `adapter_config.json`.
        known: What its run recorded of its documents and questions, if it did.
        after: The scores that its own run ended with, if it recorded them.
        went_on: Whether its run began from another adapter, all of which it holds.
    """

    name: str
    place: str
    config: dict[str, Any]
    known: KnowledgeSet | None
    after: dict[str, Any] | None
    went_on: bool

    @property
    def base(self) -> str:
        """The model that it stands on, with its revision."""
        name, revision = str(self.config.get("base_model_name_or_path")), self.config.get("revision")
        return f"{name} at {revision}" if revision not in (None, "main") else name

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those that its run recorded."""
        return () if self.known is None else self.known.questions


@dataclass(frozen=True)
class Merged:
    """What a merge made.

    Attributes:
        directory: Where it lies; None where nothing was written.
        parts: Those that are in it.
        removed: Those that were left out.
        scores: Of every part that recorded questions, `alone` and `merged`, each as in `results.json`.
        notes: What its user should know.
    """

    directory: Path | None
    parts: tuple[Part, ...]
    removed: tuple[Part, ...]
    scores: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def merge(
    names: Sequence[str],
    output_dir: str | None = None,
    *,
    remove: Sequence[str] = (),
    weights: Sequence[float] | None = None,
    combination: str = "cat",
    batch_size: int = 32,
) -> Merged:
    """Merge the adapters ``names`` into ``output_dir``; without that, only list them.

    Args:
        names: `output_dir` of runs that trained adapters, saved or merged adapters, or Hub ids.
        output_dir: A directory that is not there yet, or empty.
        remove: Parts to leave out, by name; they are asked about all the same.
        weights: How much each part that is left counts; by default 1.
        combination: One of `COMBINATIONS`.
        batch_size: Questions asked at once.

    Raises:
        ConfigurationError: a name is no adapter, the adapters cannot be added up (`require_mergeable`) or have different chat
            templates, a part to remove is not there, or ``output_dir`` is not empty.
    """
    parts = [part for name in names for part in parts_of(name)]
    twice = [name for name, count in Counter(part.name for part in parts).items() if count > 1]
    if twice:
        raise ConfigurationError(f"two adapters are called {twice[0]}; rename the directory of one of them.")
    missing = [name for name in remove if name not in {part.name for part in parts}]
    if missing:
        raise ConfigurationError(
            f"--remove {missing[0]}: no such adapter is here; there are {', '.join(part.name for part in parts)}."
        )
    removed = tuple(part for part in parts if part.name in remove)
    left = tuple(part for part in parts if part.name not in remove)
    if not left:
        raise ConfigurationError("--remove leaves no adapter to merge; name one less.")
    require_mergeable(left, weights, combination)
    notes = tuple(
        f"{part.name} began as another adapter and still contains it; merged with that adapter, its part counts twice"
        for part in left
        if part.went_on and len(left) > 1
    )
    if output_dir is None:
        return Merged(None, left, removed, {part.name: {"alone": part.after} for part in parts}, notes)
    target = Path(output_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"output_dir '{target}' is not empty; name another directory with --output_dir.")
    for part in parts:
        require_model(part.place)
    return _write(target, left, removed, [*(weights or [1.0] * len(left))], combination, batch_size, notes)


def parts_of(name: str) -> list[Part]:
    """The adapter ``name``, or those that it was merged from.

    Raises:
        ConfigurationError: it is no adapter.
    """
    folder = Path(name).expanduser() / PARTS
    if folder.is_dir():
        return [_part(str(path)) for path in sorted(folder.iterdir()) if path.is_dir()]
    return [_part(name)]


def _part(name: str) -> Part:
    path = Path(name).expanduser()
    if path.is_dir():
        config = adapter_settings(path)
        shown = path.resolve().name
    elif not is_hub_id(name):
        config, shown = None, name
    else:
        from kinject.models.adapters import adapter_config

        config = adapter_config(name) if is_repository(name) else None
        shown = name.rpartition("/")[2]
    if config is None:
        why = (
            "holds no adapter (a run with --use_peft writes one)"
            if path.is_dir()
            else "is neither a directory nor a Hub id"
        )
        raise ConfigurationError(f"{name} {why}; only adapters can be merged.")
    recorded = recorded_knowledge(name) if path.is_dir() else None
    place = str(path) if path.is_dir() else name
    if recorded is None:
        return Part(shown, place, config, None, None, went_on=False)
    results = recorded.results
    return Part(
        shown, place, config, recorded.knowledge, results["after"], went_on=results.get("model_source") == "adapter"
    )


def require_mergeable(parts: Sequence[Part], weights: Sequence[float] | None, combination: str) -> None:
    """Refuse adapters that cannot be added up.

    Raises:
        ConfigurationError: one is no LoRA adapter, is on another base or holds whole modules; or ``combination`` or
            ``weights`` do not fit the adapters.
    """
    first = parts[0]
    for part in parts:
        kind = part.config.get("peft_type")
        if kind != "LORA":
            raise ConfigurationError(
                f"{part.name} is an adapter of the kind {kind}; only LoRA adapters are merged here."
            )
        if part.base != first.base:
            raise ConfigurationError(
                f"{first.name} was trained on {first.base}, {part.name} on {part.base}: only adapters of one base merge."
            )
        saved = part.config.get("modules_to_save")
        if saved and len(parts) > 1:
            raise ConfigurationError(
                f"{part.name} holds whole modules ({', '.join(saved)}, from --lora_modules_to_save), which cannot be added up."
            )
    if combination not in COMBINATIONS:
        raise ConfigurationError(f"combination is '{combination}'; expected one of {', '.join(COMBINATIONS)}.")
    ranks = {part.name: part.config.get("r") for part in parts}
    if combination in ("linear", "ties") and len(set(ranks.values())) > 1:
        told = ", ".join(f"{name} {rank}" for name, rank in ranks.items())
        raise ConfigurationError(
            f"--combination {combination} needs adapters of equal rank, and these have {told}; take cat or svd."
        )
    if weights is not None and len(weights) != len(parts):
        raise ConfigurationError(
            f"--weights names {len(weights)}, and {len(parts)} adapters are merged; give one for each."
        )


def _write(
    target: Path,
    parts: Sequence[Part],
    removed: Sequence[Part],
    weights: Sequence[float],
    combination: str,
    batch_size: int,
    notes: tuple[str, ...],
) -> Merged:
    from kinject.evaluation.asking import answer_questions
    from kinject.evaluation.measures import score_answers
    from kinject.evaluation.results import learned_documents, new_results, recorded_answers, write_results
    from kinject.hub.card import write_card
    from kinject.hub.staging import staging_directory
    from kinject.models import devices
    from kinject.models.adapters import join_adapters, model_file, own_tokenizer, write_diffusion_settings
    from kinject.models.loading import load

    templates = {part.name: own_tokenizer(part.place) for part in parts}
    told = {name: None if each is None else each.chat_template for name, each in templates.items()}
    others = [name for name in told if told[name] != told[parts[0].name]]
    if others:
        raise ConfigurationError(
            f"{parts[0].name} and {others[0]} were trained with other chat templates or system prompts; no prompt fits both."
        )
    base = load(str(parts[0].config["base_model_name_or_path"]))
    where, _ = devices.device_and_dtype(None)
    whole: Any = base.model
    model: Any = join_adapters(whole, [part.place for part in parts], weights, combination)
    devices.place(model, where)
    tokenizer = templates[parts[0].name] or base.tokenizer
    scores: dict[str, dict[str, Any]] = {}
    asked: list[Question] = []
    given: list[str] = []
    documents, after = [], 0
    for part in (*parts, *removed):
        known = part.known
        if known is None:
            continue
        answers = answer_questions(
            model, tokenizer, [each.question for each in known.questions], max_new_tokens=128, batch_size=batch_size
        )
        texts = [each.titled_text for each in known.documents]
        scores[part.name] = {
            "alone": part.after,
            "merged": score_answers(known.questions, answers, documents=texts),
        }
        if part in parts:
            asked += [replace(each, fact=None if each.fact is None else each.fact + after) for each in known.questions]
            given += answers
            documents += [replace(each, fact=each.fact + after) for each in known.documents]
            after = 1 + max((each.fact for each in documents), default=-1)
    results = new_results(
        objective="merged",
        model=base.name,
        dataset="+".join(part.name for part in parts),
        config={"combination": combination, "weights": [*weights]},
        model_source=base.source,
        documents=len(documents),
        learned=learned_documents(documents),
        parts={name: {**each, "removed": name in {part.name for part in removed}} for name, each in scores.items()},
    )
    results["after"] = score_answers(asked, given, documents=[each.titled_text for each in documents])
    results["answers"] = recorded_answers(asked, given)
    target.parent.mkdir(parents=True, exist_ok=True)
    with staging_directory(target, roomy=True) as staged:
        place = staged / "merged"
        model.save_pretrained(str(place), selected_adapters=["default"])
        tokenizer.save_pretrained(str(place))
        if base.is_diffusion or model_file(parts[0].place, "diffusion.json") is not None:
            write_diffusion_settings(place, model)
        for part in parts:
            folder = place / PARTS / part.name
            folder.mkdir(parents=True)
            for name in _FILES:
                found = model_file(part.place, name)
                if found is not None:
                    shutil.copyfile(found, folder / name)
        write_results(place / "results.json", results)
        write_card(place)
        if target.exists():
            target.rmdir()
        place.rename(target)
    return Merged(target, tuple(parts), tuple(removed), scores, notes)


def listing(merged: Merged) -> str:
    """A line for each adapter: its rank, its documents, and the scores of its questions, alone and merged."""
    lines = []
    for part in (*merged.parts, *merged.removed):
        found = merged.scores.get(part.name, {})
        told = [f"{part.name}: rank {part.config.get('r')} on {part.base}"]
        told.append("removed" if part in merged.removed else "")
        told.append(f"{len(part.known.documents)} documents" if part.known else "no recorded documents")
        for direction in DIRECTIONS:
            moments = [(name, ((found.get(name) or {}).get(direction) or {})) for name in ("alone", "merged")]
            shown = [f"{name} {cell['paper']:.2f}" for name, cell in moments if cell.get("n")]
            told.append(f"{direction} {', '.join(shown)}" if shown else "")
        lines.append("; ".join(each for each in told if each))
    return "\n".join([*lines, *(f"note: {note}" for note in merged.notes)])
