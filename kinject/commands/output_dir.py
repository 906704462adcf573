"""The output directory of a run: what it holds, whether it may be written to, what is removed, and how a run in it goes on.

Files that kinject did not write are never touched unless the user says so. Knows nothing of what a run does. Looking at a
directory imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.compat import is_first_process
from kinject.errors import ConfigurationError
from kinject.evaluation.results import is_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trl import ModelConfig

    from kinject.data import KnowledgeSet
    from kinject.trainers import DocumentSFTConfig

TAKE_LAST = ("true", "1", "yes")  # values of resume_from_checkpoint that mean the last whole checkpoint in output_dir


_WEIGHTS = re.compile(r"((adapter_)?model.*\.safetensors|pytorch_model.*\.bin)(\.index\.json)?")


_WRITTEN = re.compile(
    r"checkpoint-\d+|best(\.new)?|results\.json|report\.html|accuracy\.png|diffusion\.json|training_args\.bin|trainer_state\.json"
    r"|(adapter_|generation_|preprocessor_|processor_)?config\.json|.*token.*\.(json|model)|vocab\.\w+|merges\.txt"
    r"|spiece\.model|chat_template\.jinja|additional_chat_templates|latest|global_step\d+|zero_to_fp32\.py"
)


_LOGS = re.compile(r"\..*|runs|wandb|trackio|lock|log\.txt|.*\.log|run\.json|config\.yaml")


@dataclass(frozen=True)
class Holding:
    """What an output directory holds: the run in it, and files that kinject did not write.

    Attributes:
        own: Files and folders that a run of kinject wrote, without its logs.
        foreign: All others.
        checkpoints: The checkpoints of that run that look whole.
        finished: Whether that run finished.
        measured: Whether it asked questions after training had begun.
    """

    own: list[Path]
    foreign: list[Path]
    checkpoints: list[Path]
    finished: bool
    measured: bool


def holding(directory: Path) -> Holding:
    """What lies in ``directory``; a run is known by its `results.json`, its card or the state of a checkpoint."""
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    entries = [entry for entry in entries if not _LOGS.fullmatch(entry.name)]
    results = _results(directory)
    checkpoints = [entry for entry in entries if re.fullmatch(r"checkpoint-\d+", entry.name)]
    whole = [entry for entry in checkpoints if (entry / "trainer_state.json").is_file()]
    card = is_card(directory / "README.md")
    weights = any(_WEIGHTS.fullmatch(entry.name) for entry in entries)
    is_run = bool(results) or card or bool(whole)
    own = [
        entry
        for entry in entries
        if is_run
        and (
            card or not entry.stat().st_size  # PEFT saves a form first, and may be killed once the file is opened
            if entry.name == "README.md"
            else _holds_adapters(entry)
            if entry.name == "parts" and results.get("objective") == "merged"
            else bool(_WRITTEN.fullmatch(entry.name) or _WEIGHTS.fullmatch(entry.name))
        )
    ]
    return Holding(
        own=own,
        foreign=[entry for entry in entries if entry not in own],
        checkpoints=whole,
        finished=results.get("after") is not None or (is_run and weights),
        measured=bool(results.get("history")),
    )


def prepare_output_dir(output_dir: str | None, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Check that ``output_dir`` can be written to and that nothing in it is lost, before anything costly starts.

    What is created for the check is removed again. Of several processes only the first checks.

    Args:
        output_dir: Where a run is to write.
        overwrite: Whether it may replace what another run left there, and files of the user that it has to write.
        resume: Whether it goes on with the run that lies there.

    Raises:
        ConfigurationError: it cannot be written, or holds what a run would replace.
    """
    path = Path(output_dir or "outputs")
    if not is_first_process():
        return path
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        for each in missing:
            each.rmdir()
    except OSError as error:
        raise ConfigurationError(
            f"output_dir '{output_dir}' cannot be written: {error.strerror}. Name a directory you may write with "
            "--output_dir."
        ) from error
    if not overwrite:
        _check_holding(path, holding(path), resume)
    return path


def prepare_results(output_dir: str, overwrite: bool) -> Path:
    """Check that `results.json` and its page can be written to ``output_dir``, and replace no others.

    Raises:
        ConfigurationError: ``output_dir`` cannot be written, or holds one of the two and ``overwrite`` is false.
    """
    path = prepare_output_dir(output_dir, overwrite=True)  # no other file in it is replaced
    there = [name for name in ("results.json", "report.html") if (path / name).exists()]
    if there and not overwrite:
        raise ConfigurationError(
            f"output_dir '{path}' holds a {there[0]}: name another directory with --output_dir, or replace it with "
            "--overwrite."
        )
    return path


def resumes(resume_from_checkpoint: Any) -> bool:
    """Whether that setting asks for a run to go on."""
    return str(resume_from_checkpoint).lower() not in ("none", "false", "0", "no", "")


def _check_holding(path: Path, held: Holding, resume: bool) -> None:
    another = "name another directory with --output_dir"
    if resume and held.checkpoints and path / "README.md" not in held.foreign:
        return
    if held.finished and not (resume and held.checkpoints):
        lost = "its checkpoints are gone, so that it cannot go on; " if resume else ""
        raise ConfigurationError(
            f"output_dir '{path}' holds a finished run: {lost}{another}, or replace it with --overwrite."
        )
    if held.checkpoints and not resume:
        last = max(held.checkpoints, key=lambda each: int(each.name.rpartition("-")[2]))
        raise ConfigurationError(
            f"output_dir '{path}' holds {last.name} of a run that was not finished. Go on with it by "
            f"--resume_from_checkpoint true, or start again with --overwrite."
        )
    if held.measured and not resume:
        raise ConfigurationError(
            f"output_dir '{path}' holds what an unfinished run measured, and no checkpoint to go on from: {another}, or "
            "replace it with --overwrite."
        )
    if held.foreign:
        names = ", ".join(each.name for each in held.foreign[:5]) + (" ..." if len(held.foreign) > 5 else "")
        raise ConfigurationError(
            f"output_dir '{path}' holds files that kinject did not write ({names}): {another}. With --overwrite only those "
            "are replaced that have the name of a file of the run."
        )


def clear_output_dir(path: Path) -> list[str]:
    """Remove what another run left in ``path``, now that a new one begins there.

    Returns:
        The names of files that kinject did not write, and the new run replaces.
    """
    if not is_first_process():
        return []
    held = holding(path)
    replaced = [
        each
        for each in held.foreign
        if each.name == "README.md" or _WRITTEN.fullmatch(each.name) or _WEIGHTS.fullmatch(each.name)
    ]
    try:
        cards = [each for each in replaced if each.name == "README.md"]  # a trainer does not replace a user's card
        for each in (*held.own, *cards, *path.glob(".checkpoint-*.before")):  # left by a run that was killed
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: cannot be removed ({error.strerror}).") from error
    return [each.name for each in replaced]


def bring_along(former: Path, output_dir: Path) -> None:
    """Copy what a run measured and selected in ``former`` before it goes on in another directory."""
    if former.resolve() == output_dir.resolve() or (output_dir / "results.json").exists():
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    if (former / "results.json").is_file():
        shutil.copy(former / "results.json", output_dir)
    if (former / "best").is_dir():
        shutil.copytree(former / "best", output_dir / "best", dirs_exist_ok=True)


def unfinished_checkpoint(named: object) -> ConfigurationError:
    """The error for a checkpoint to go on from that is missing or unfinished."""
    return ConfigurationError(
        f"resume_from_checkpoint: {named} is no checkpoint that was written to its end. Name another, or pass true to take the "
        "last whole one in output_dir."
    )


def remove_checkpoints(path: Path) -> tuple[list[str], int]:
    """Remove what only a run that was killed needs, when the run in ``path`` has ended: its checkpoints, with the optimizer's
    states, and the copy of the selected weights.

    Returns:
        Their names, and the bytes that they took.
    """
    gone = [entry for entry in holding(path).own if re.fullmatch(r"checkpoint-\d+|best", entry.name)]
    size = sum(file.stat().st_size for entry in gone for file in entry.rglob("*") if file.is_file())
    for entry in gone:
        shutil.rmtree(entry, ignore_errors=True)  # a file that cannot be removed costs room, but no result
    return [entry.name for entry in gone], size


def _holds_adapters(folder: Path) -> bool:
    """Whether ``folder`` holds nothing but adapters, as `kinject merge` leaves those that it joined in `parts`."""
    return folder.is_dir() and all((entry / "adapter_config.json").is_file() for entry in folder.iterdir())


def _results(directory: Path) -> dict[str, Any]:
    """The results that a run of kinject left in ``directory``, or nothing."""
    try:
        content = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and {"schema", "objective", "before"} <= set(content) else {}


# Going on with a run: from which checkpoint, and what has to be the same.

_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".gguf", ".txt")
_COMPLETED = (("learning_rate", None),)  # chosen by the trainer, once it knows the model
# Arguments that may differ where a run goes on: what is read is compared by its content, and the others change no weights.
_FREE_ARGUMENTS = (
    *(
        "documents",
        "questions",
        "writer",
        "keep",
        "keep_questions",
        "corrects",
        "paraphrases",
        "facts",
        "size",
        "world_seed",
        "text_field",
        "question_field",
        "answer_field",
    ),
    *(
        "evaluations",
        "evaluate_every",
        "retention",
        "retention_questions",
        "baselines",
        "publish_documents",
        "overwrite",
        "keep_checkpoints",
    ),
    *("unseen", "unknown_samples", "open_book", "other_wordings"),
    *("model_name_or_path", "attn_implementation", "trust_remote_code"),
)


def run_inputs(arguments: Any, model_args: ModelConfig, knowledge: KnowledgeSet) -> dict[str, Any]:
    """What shapes a run besides the trainer's settings: `InjectionArguments`, the model's settings and files, the questions."""
    from kinject.evaluation.results import files_fingerprint
    from kinject.trainers.checkpointing import plain, row_tags

    named = {name: value for group in (arguments, model_args) for name, value in vars(group).items()}
    free = {*_FREE_ARGUMENTS, *(() if arguments.rehearsal else ("question_batch_size",))}
    folder = Path(str(model_args.model_name_or_path)).expanduser()
    loaded = [path for path in sorted(folder.iterdir()) if path.suffix in _MODEL_FILES] if folder.is_dir() else []
    content = files_fingerprint(path for path in loaded if path.name != "results.json") if loaded else None
    return {
        **{name: plain(value) for name, value in named.items() if name not in free and not name.startswith("_")},
        "model_name_or_path": f"{folder.absolute().name} (content {content})" if content else str(folder),
        "questions": row_tags(
            {**vars(each), "fact": None, "source": None, "wordings": None} for each in knowledge.questions
        ),
    }


def settings_reading_output_dir(arguments: Any, training_args: DocumentSFTConfig) -> list[str]:
    """The settings under which every process reads what the main process wrote to the output directory."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    reads = ["resume_from_checkpoint"] if resumes(training_args.resume_from_checkpoint) else []
    if arguments.select_on != "none" and is_deepspeed_zero3_enabled():
        reads.append("select_on (under ZeRO-3 every process reads the best weights)")
    return reads


def find_checkpoint(training_args: DocumentSFTConfig) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means: the one named, or the last whole one in `output_dir`; None if none.

    Raises:
        ConfigurationError: the checkpoint that is named was not written to its end.
    """
    from kinject.models.weights import from_main_process
    from kinject.trainers.checkpointing import is_whole_checkpoint, last_whole_checkpoint

    value = training_args.resume_from_checkpoint
    if not resumes(value):
        return None
    if str(value).lower() in TAKE_LAST:
        found: str | None = from_main_process(last_whole_checkpoint(str(training_args.output_dir)))
        return found
    if not from_main_process(is_whole_checkpoint(Path(str(value)))):
        raise unfinished_checkpoint(value)
    return value


def require_same_run(
    checkpoint: str, knowledge: KnowledgeSet, training_args: DocumentSFTConfig, inputs: Mapping[str, Any]
) -> None:
    """Refuse to go on from a checkpoint of other documents, questions, settings or another model.

    Args:
        checkpoint: Its directory.
        knowledge, training_args: Those of the run that would go on.
        inputs: Its objective, and what `run_inputs` gives.

    Raises:
        ConfigurationError: names what differs.
    """
    from kinject.trainers.checkpointing import require_same_inputs, row_tags, shaping_settings

    documents = row_tags([*knowledge.to_dataset(), *(knowledge.kept_dataset() or ())])
    known = {**shaping_settings(training_args), "documents": documents, **inputs}
    require_same_inputs(checkpoint, {name: known[name] for name in known if (name, known[name]) not in _COMPLETED})
