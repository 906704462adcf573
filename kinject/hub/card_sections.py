"""The sections of an eval card that hold numbers: before and after, baselines, forgetting, and what the training cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kinject.evaluation.retention import figures, percent, perplexity_factor, still_right
from kinject.evaluation.scores import DIRECTIONS, UNKNOWN, asked, cells, read_otherwise
from kinject.hub.card_metadata import latest_scores
from kinject.hub.card_text import code, fenced, single_line
from kinject.results import public_name

_MEASURES = (("paper", "ROUGE-1 recall"), ("exact_match", "exact match"), ("f1", "token F1"))
OBJECTIVES = {
    "masked": "masked fine-tuning",
    "random_token": "fine-tuning on documents with random tokens (a control)",
    "unmasked": "fine-tuning with the whole document in the prompt (a control)",
    "ar": "plain autoregressive fine-tuning",
    "reverse": "plain and reversed autoregressive fine-tuning",
    "diffusion": "masked diffusion fine-tuning",
}


def scores(results: Mapping[str, Any]) -> str:
    """Forward and backward, before and after, with intervals."""
    before, after = results["before"], latest_scores(results)
    if not asked(before or after) and UNKNOWN not in (after or before or {}):
        return "No questions were asked, so nothing is known of what it learned."
    finished = results["after"] is not None
    rows = []
    for direction in cells(after or before):
        for measure, name in _MEASURES:
            moments = [_score(each.get(direction) if each else None, measure) for each in (before, after)]
            count = (after or before or {})[direction]["n"]
            label = "unknown direction" if direction == UNKNOWN else direction
            rows.append([f"{label}, {name}", str(count), *moments])
    heads = ["", "questions", "before", "after" if finished else "so far"]
    return "\n\n".join([_table(heads, rows), *_reading(results)])


def groups(results: Mapping[str, Any]) -> str | None:
    """The scores of each kind of question, where there are several."""
    found = (results["after"] or {}).get("groups") or {}
    if len(found) <= len(DIRECTIONS):
        return None
    labels = {name: single_line(name, 60) for name in found}
    width = max(map(len, labels.values()))
    lines = [f"{'':{width}}  {'n':>5}  recall  exact     F1"]
    for name, cell in found.items():
        measured = f"{cell['paper']:>6.3f}  {cell['exact_match']:>5.3f}  {cell['f1']:>5.3f}"
        lines.append(f"{labels[name]:{width}}  {cell['n']:>5}  {measured}")
    return fenced("\n".join(lines))


def baselines(results: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str | None:
    """This run beside ``others``, where there are any."""
    if not others:
        return None
    rows, notes = [], []
    for number, run in enumerate((results, *others)):
        measured = latest_scores(run)
        label = OBJECTIVES.get(run["objective"], "another objective")
        train = run["train"]
        rows.append(
            [
                f"**this model**: {label}" if number == 0 else f"{number}. {label}",
                *(_score(measured[d] if measured else None, m) for d in DIRECTIONS for m in ("paper", "exact_match")),
                str(train["steps"]),
                f"{train['flops']:.2e}",
                f"{train['seconds']:.0f}",
            ]
        )
        if number and (differing := _differences(results, run)):
            notes.append(f"- Run {number} is not the same experiment: {', '.join(differing)}.")
    heads = ["run", *(f"{d}, {name}" for d in DIRECTIONS for name in ("recall", "exact")), "steps", "FLOPs", "seconds"]
    return "\n\n".join([_table(heads, rows), *(["\n".join(notes)] if notes else [])])


def forgetting(results: Mapping[str, Any]) -> str:
    """What general knowledge the training cost."""
    retention = results.get("retention") or {}
    before, after = retention.get("before"), retention.get("after")
    if not before or not after:
        return "Not measured. Training on new documents costs old knowledge; expect some of it to be gone."
    rows = [
        ["perplexity of held-out text", figures(before["perplexity"]), figures(after["perplexity"])],
        [
            f"general questions answered, of {after['questions']}",
            figures(before["answered"], 3),
            figures(after["answered"], 3),
        ],
    ]
    kept, factor = still_right(retention), perplexity_factor(retention)
    told = [] if kept is None else [f"of the questions it answered before, {percent(kept)} are still answered"]
    told += [] if factor is None else [f"perplexity is {figures(factor, 3)} times what it was"]
    return "\n\n".join([_table(["", "before", "after"], rows), *([_sentence("; ".join(told))] if told else [])])


def injected(results: Mapping[str, Any]) -> str:
    """How much was learned and asked; the text itself only where it was asked for."""
    measured = latest_scores(results) or results["before"]
    wordings = {"none": "one wording of each fact", "same_order": "several wordings of each fact, in the same order"}
    wordings |= {"permute_order": "several wordings of each fact, in changed order", "given": "the wordings as given"}
    lines = [f"- data set: {code(public_name(results['dataset']))}"]
    lines += [f"- documents: {results['documents']}"] if isinstance(results.get("documents"), int) else []
    lines += [f"- facts: {results['facts']}"] if isinstance(results.get("facts"), int) else []
    lines += [f"- paraphrases: {wordings.get(results['paraphrases'], code(results['paraphrases']))}"]
    if measured is not None:
        lines += [f"- {direction} questions asked: {measured[direction]['n']}" for direction in DIRECTIONS]
        lines += (
            [f"- questions asked whose direction is unknown: {measured[UNKNOWN]['n']}"] if UNKNOWN in measured else []
        )
    return "\n".join(lines)


def cost(results: Mapping[str, Any]) -> str:
    """Steps, tokens, FLOPs, seconds and memory."""
    train = results["train"]
    amounts = (
        ("steps", train["steps"], ","),
        ("tokens", train["tokens"], ","),
        ("floating-point operations (estimate)", train["flops"], ".3e"),
        ("seconds, without those spent on questions", train["seconds"], ",.1f"),
        ("peak memory, GB", train["peak_memory_bytes"] / 1e9, ".2f"),
    )
    rows = [[name, format(amount, form) if amount else "not recorded"] for name, amount, form in amounts]
    return _table(["", "training"], rows)


def _reading(results: Mapping[str, Any]) -> list[str]:
    """How to read the table."""
    said = [
        "*Forward* questions ask in the order of the document, *backward* questions against it. Nothing is sampled. ROUGE-1 "
        "recall is the paper's measure: the share of the expected answer's words that the answer holds, so an answer that "
        "recites a whole document counts as right; exact match does not let that pass. In brackets: 95 % bootstrap "
        "intervals over the questions of this one run; another seed can differ by more."
    ]
    otherwise = read_otherwise(latest_scores(results) or results["before"])
    said += [_sentence(otherwise)] if otherwise else []
    if isinstance(results.get("selection"), str):
        said.append(f"Which weights were scored: {code(results['selection'])}.")
    if results["after"] is None:
        step = results["history"][-1]["step"] if results["history"] else 0
        said.append(f"**Training has not finished**: the scores are those of step {step}.")
    return said


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _differences(results: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    found = [
        f"its {name} is {code(public_name(str(other[name])))}"
        for name in ("model", "dataset", "paraphrases")
        if other[name] != results[name]
    ]
    counts = [[(latest_scores(run) or {}).get(d, {}).get("n") for d in DIRECTIONS] for run in (results, other)]
    return found + (["it was asked other questions"] if counts[0] != counts[1] else [])


def _score(cell: Mapping[str, Any] | None, measure: str) -> str:
    if cell is None or not cell["n"]:
        return "-"
    interval = cell.get("ci", {}).get(measure)
    # A no-break space: in a narrow table the interval goes below the score, in one piece.
    return f"{cell[measure]:.3f}" + (f" [{interval[0]:.3f},\u00a0{interval[1]:.3f}]" if interval else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
