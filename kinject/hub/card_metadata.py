"""The machine-readable half of a model card: scores as the Hub's evaluation results, and back to a run's results.

What the model scores stands in ``model-index``, where ``huggingface_hub`` reads it as ``EvalResult``. What has no place
there (the scores before training, how they developed, settings and cost) stands beside it under the key ``kinject``.
Of what was not asked, nothing stands there: zeros would read as scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kinject.errors import DataError
from kinject.evaluation.scores import DIRECTIONS, OTHER_WORDS, asked, score_answers
from kinject.hub.card_holding import HUB_ID
from kinject.hub.card_text import single_line, slug
from kinject.results import public_config, public_name, validate_results

if TYPE_CHECKING:
    from huggingface_hub import CardData, EvalResult, ModelCardData

    from kinject.hub.card_holding import Holding

KEY = "kinject"
MEASURES = {
    "paper": ("rouge", "ROUGE-1 recall, as in arXiv 2510.09885"),
    "exact_match": ("exact_match", "Exact match"),
    "f1": ("f1", "Token F1"),
}
_NOTHING_ASKED = {direction: score_answers((), ())[direction] for direction in DIRECTIONS}
_TASK = "question-answering"
_COPIED = ("documents", "facts", "selection", "selected", "train")
_ENTRY = ("step", "epoch", "tokens", "flops", "seconds", "loss")


def card_data(results: Mapping[str, Any], holding: Holding, tags: Sequence[str] = ()) -> ModelCardData:
    """The metadata of the card of a run."""
    from huggingface_hub import ModelCardData

    fields: dict[str, Any] = {**holding.license, KEY: _run(results)}
    hub_dataset = _hub_dataset(results)
    if holding.base is not None:
        fields["base_model_relation"] = "adapter" if holding.is_adapter else "finetune"
    return ModelCardData(
        model_name=model_name(results),
        base_model=holding.base,
        datasets=[hub_dataset] if hub_dataset else None,
        library_name=holding.library,
        pipeline_tag="text-generation",
        tags=[KEY, "knowledge-injection", "reversal-curse", slug(results["objective"]), *holding.tags, *tags],
        eval_results=_eval_results(results) or None,
        **fields,
    )


def model_name(results: Mapping[str, Any]) -> str:
    """What the card calls the model: the base's own name and the objective."""
    return f"{slug(public_name(results['model']).split('/')[-1])}-{slug(results['objective'])}"


def latest_scores(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The scores that the card claims: those after training, or of the last evaluation while it goes on."""
    return results["after"] or (results["history"][-1] if results["history"] else None)


def results_of(data: CardData) -> dict[str, Any]:
    """What `card_data` was made of, as far as the card says it: no groups, no answers, no intervals of the history.

    Raises:
        DataError: the card is none of kinject's, or something in it does not fit.
    """
    run = data.get(KEY)
    if not isinstance(run, Mapping):
        raise DataError(
            f"the card's metadata has no '{KEY}': it is no eval card of kinject, and claims no scores to read"
        )
    results: dict[str, Any] = {"versions": {}, **run}
    finished = results.pop("finished", False)
    claimed = _claimed(data.get("eval_results") or [])
    results["after"] = claimed if finished else None
    results["before"] = _with_unasked(run.get("before"))
    if isinstance(run.get("history"), list):
        results["history"] = [_with_unasked(entry) for entry in run["history"]]
    validate_results(results, "the card's metadata")
    return results


def _hub_dataset(results: Mapping[str, Any]) -> str | None:
    """The data set's Hub id, or None: the Hub refuses cards that name anything else."""
    name = public_name(results["dataset"]).partition(":")[0]  # a configuration may follow
    return name if HUB_ID.fullmatch(name) else None


def _run(results: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: single_line(str(results[name])) for name in ("objective", "paraphrases")}
    named |= {name: single_line(public_name(results[name])) for name in ("model", "dataset")}
    before = results["before"]
    retention = {
        moment: {name: value for name, value in measured.items() if isinstance(value, (int, float))}
        for moment, measured in (results.get("retention") or {}).items()
    }
    return {
        "schema": results["schema"],
        **named,
        "seed": results["seed"],
        **{name: results[name] for name in _COPIED if results.get(name) is not None},
        **({"retention": retention} if retention else {}),
        "config": public_config(results["config"]),
        "finished": results["after"] is not None,
        "before": {name: before[name] for name in asked(before)} or None,
        "history": [_entry(entry) for entry in results["history"] if asked(entry)],
    }


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    scores = {name: {each: entry[name][each] for each in (*MEASURES, "n")} for name in asked(entry)}
    return {**{name: entry[name] for name in _ENTRY if entry.get(name) is not None}, **scores}


def _eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    scores = latest_scores(results)
    dataset = single_line(public_name(results["dataset"]))
    found = []
    for direction in DIRECTIONS:
        cell: Mapping[str, Any] = scores[direction] if scores is not None else {"n": 0}
        for measure, (metric, name) in MEASURES.items() if cell["n"] else ():
            interval = cell.get("ci", {}).get(measure)
            other = {OTHER_WORDS: cell[OTHER_WORDS]} if measure == "paper" and OTHER_WORDS in cell else {}
            found.append(
                EvalResult(
                    task_type=_TASK,
                    task_name=f"{direction.capitalize()} questions",
                    dataset_type=_hub_dataset(results) or slug(dataset),
                    dataset_name=dataset,
                    dataset_config=direction,
                    metric_type=metric,
                    metric_name=f"{name}, in the words of other scripts" if other else name,
                    metric_value=cell[measure],
                    metric_args={
                        "reading": measure,
                        "n": cell["n"],
                        **other,
                        **({"ci": list(interval)} if interval else {}),
                    },
                )
            )
    return found


def _with_unasked(scores: Any) -> Any:
    """``scores`` with the directions that the card leaves out, to be validated like any other."""
    return {**_NOTHING_ASKED, **scores} if isinstance(scores, Mapping) else scores


def _claimed(eval_results: Sequence[EvalResult]) -> dict[str, Any]:
    claimed: dict[str, dict[str, Any]] = {direction: {} for direction in DIRECTIONS}
    for each in eval_results:
        args = each.metric_args or {}
        if each.task_type == _TASK and each.dataset_config in claimed and args.get("reading") in MEASURES:
            cell = claimed[each.dataset_config]
            cell |= {args["reading"]: each.metric_value, "n": args.get("n")}
            cell |= {OTHER_WORDS: args[OTHER_WORDS]} if OTHER_WORDS in args else {}
            if "ci" in args:
                cell.setdefault("ci", {})[args["reading"]] = args["ci"]
    return {direction: cell or _NOTHING_ASKED[direction] for direction, cell in claimed.items()}
