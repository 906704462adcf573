"""Copies the files of a push into a staging directory; the directory that is pushed is only read.

Only listed kinds of files are taken, and none that holds a secret or a path of this machine. The staged model is loaded again
and its logits are compared with those of the trained one. Knows nothing of the network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import SECRET_VALUE, ConfigurationError
from kinject.evaluation.results import public_name, without_texts, write_json
from kinject.hub.card_metadata import ENTRIES, benchmark_of, write_entries
from kinject.models.names import VOCABULARY, sharded_files
from kinject.models.saving import Layout, require_layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from kinject.models import LoadedModel

    Probe = list[tuple[list[int], torch.Tensor]]  # prompts, and their logits: (length, vocabulary)


# The files of a trained directory that are published, without secrets and paths of this machine.

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
REPORT_FILES = ("README.md", "results.json", "accuracy.png")
_ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "diffusion.json")
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
_MODEL_FILES = ("config.json", "generation_config.json")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_CLEANED = (ADAPTER_CONFIG, "tokenizer_config.json", *_MODEL_FILES)
_SECRET = "'{path}' holds what looks like a Hub access token. Remove it, and revoke the token."
_PATH = re.compile(
    r"(file://|~?/|[A-Za-z]:[\\/])[^\s{}<>]*[\\/][^\s{}<>]*"
)  # a whole value, but no template and no </s>


def is_adapter(directory: Path) -> bool:
    """Whether ``directory`` holds an adapter, not a whole model."""
    return (directory / ADAPTER_CONFIG).is_file()


def model_files(directory: Path) -> dict[str, Path]:
    """The weights and settings of the model or adapter in ``directory``, by name.

    Raises:
        ConfigurationError: there is neither, or a file of it is missing.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"'{directory}' is no directory; name the output_dir of a run, or a saved model.")
    if is_adapter(directory):
        return _present(directory, (ADAPTER_CONFIG, ADAPTER_WEIGHTS), required=True) | _present(
            directory, _ADAPTER_FILES
        )
    if not (directory / "config.json").is_file():
        raise ConfigurationError(
            f"'{directory}' holds neither adapter_config.json nor config.json; name a directory with a trained model."
        )
    weights: tuple[str, ...] = (_WEIGHTS,)
    if (directory / _INDEX).is_file():
        weights = (_INDEX, *sharded_files(directory, _INDEX))
    return _present(directory, weights, required=True) | _present(directory, _MODEL_FILES)


def require_finite_files(files: Mapping[str, Path]) -> None:
    """Refuse weights that are nan or infinite, as a run that diverged writes them.

    Raises:
        ConfigurationError: names the file and the weight.
    """
    from safetensors import safe_open

    from kinject.models.weights import all_finite

    for path in files.values():
        if path.suffix != ".safetensors":
            continue
        with safe_open(str(path), framework="pt") as opened:
            names = list(opened.keys())
            packed = {
                name.partition(".quant_state.")[0] for name in names if ".quant_state." in name
            }  # bytes, not numbers
            for name in names:
                if name not in packed and not all_finite([opened.get_tensor(name)]):
                    raise ConfigurationError(
                        f"'{path}' holds weights that are not finite numbers (nan or inf), the first in {name}. The training "
                        "that wrote them diverged. Publish an earlier checkpoint, or train again with a lower learning rate."
                    )


def tokenizer_files(directory: Path) -> dict[str, Path]:
    """The tokenizer and chat templates in ``directory``, by name."""
    templates = sorted(each.name for each in (directory / "additional_chat_templates").glob("*.jinja"))
    more = [f"additional_chat_templates/{name}" for name in templates]
    more += sorted(each.name for each in directory.iterdir() if VOCABULARY.fullmatch(each.name))
    return _present(directory, (*_TOKENIZER_FILES, *more))


def report_files(directory: Path) -> dict[str, Path]:
    """The card, the results with their plot, and the license in ``directory``, by name."""
    return _present(directory, REPORT_FILES + _LICENSES)


def replaceable(path: str) -> bool:
    """Whether a file of a repository was part of an earlier push, and may be removed by the next one."""
    return path in {
        ENTRIES,
        *_ADAPTER_FILES,
        *_MODEL_FILES,
        *_TOKENIZER_FILES,
        _WEIGHTS,
        _INDEX,
        *REPORT_FILES[1:],
    } or bool(_SHARD.fullmatch(path) or VOCABULARY.fullmatch(path))


def public_content(name: str, path: Path) -> bytes | None:
    """The cleaned content of a text file: settings without local paths; None for a file that is uploaded unchanged.

    Raises:
        ConfigurationError: the file holds an access token.
    """
    if path.suffix not in (".json", ".md", ".jinja", ".txt") or name == _INDEX:
        return None
    text = path.read_text(encoding="utf-8")
    if SECRET_VALUE.search(text):
        raise ConfigurationError(_SECRET.format(path=path))
    if name not in _CLEANED:
        return None
    return (json.dumps(_without_paths(json.loads(text)), indent=2, ensure_ascii=False) + "\n").encode()


def _present(directory: Path, names: tuple[str, ...], *, required: bool = False) -> dict[str, Path]:
    missing = [name for name in names if not (directory / name).is_file()]
    if required and missing:
        pickled = [name for name in ("pytorch_model.bin", "adapter_model.bin") if (directory / name).is_file()]
        why = f"; {pickled[0]} is pickled, and is neither published nor read" if pickled else ""
        raise ConfigurationError(f"'{directory}' lacks {', '.join(missing)}{why}. Save the model there again.")
    return {name: directory / name for name in names if name not in missing}


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, str) and _PATH.fullmatch(value):
        return public_name(value.removeprefix("file://"))
    return value


# The staging directory. Those of pushes that were killed are removed by the next push.

_PREFIX = ".kinject-push-"
_FRESH = 60.0  # seconds after which the process that made a staging directory has certainly locked it


@contextmanager
def staging_directory(source: Path, *, roomy: bool) -> Iterator[Path]:
    """An empty directory that is removed afterwards, together with those of pushes that were killed.

    Args:
        source: The directory that is published.
        roomy: Create it beside ``source``, where there is room for a model, not in the system's directory for temporary files,
            which may be small.
    """
    parent, system = source.absolute().parent, Path(tempfile.gettempdir())
    for place in (parent, system):
        _remove_abandoned(place)
    place = parent if roomy and os.access(parent, os.W_OK) else system
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as made:
        descriptor = os.open(made, os.O_RDONLY)
        try:
            _lock(descriptor)
            yield Path(made)
        finally:
            os.close(descriptor)


def _remove_abandoned(place: Path) -> None:
    """Remove this user's staging directories in ``place`` that no process has locked."""
    for path in place.glob(f"{_PREFIX}*"):
        try:
            found = path.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _FRESH:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if _lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a directory until its descriptor is closed or the process ends, also when it is killed.

    Returns:
        Whether it is locked now; not if another process has locked it, or the file system has no locks.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_LINKED = ".safetensors"
_UNWRITTEN = "[More Information Needed]"
_PROBES = ("What is the capital of France?", "Tell me a fact.")
_PROBED_QUESTIONS, _PROBED_TOKENS = 3, 24
_CHEAP_BYTES = 2 * 2**30  # the most bytes of weights that are loaded only to be compared
# The relative difference of logits that rounding explains: this, or so many units in the last place of a narrower type.
_ROUNDING = 1e-3
_UNITS = 12


def stage(
    directory: Path,
    staged: Path,
    repository: str,
    *,
    merge: bool = False,
    layout: Layout = "native",
    base: str | None = None,
    include_documents: bool = False,
    benchmark: str | None = None,
    report: Path | None = None,
) -> dict[str, Path]:
    """Put the files of ``directory`` to be published into ``staged``, with the card; unchanged weights are not copied.

    A model that was merged or written in another layout is loaded again, and has to have the logits of the original. The same
    is checked for any small model with results, as others would load it.

    Args:
        directory: Holds the adapter or the whole model.
        staged: An empty, writable directory.
        repository: The name that it will be published under.
        merge: Publish a whole model made of the adapter and its base.
        layout: Key layout of a whole model.
        base: The base model's Hub id, if the adapter names another base.
        include_documents: Whether questions and answers are published, too, as by runs with `--publish_documents`.
        benchmark: The Hub data set with the questions, if it is not the run's own.
        report: The directory of `results.json`, if it is not ``directory``.

    Returns:
        The files by their names in the repository.

    Raises:
        ConfigurationError: the directory lacks a file, the options do not fit its model, or the model as published would have
            other logits than the one that was measured.
    """
    files = model_files(directory)
    require_fitting_options(directory, merge=merge, layout=layout, base=base)
    questions = _questions(report or directory)
    measured = None
    if merge or (not is_adapter(directory) and layout != _layout_of(directory)):
        measured = _write_whole(directory, staged, questions, merge=merge, layout=layout)
        files = model_files(staged) | tokenizer_files(staged)
    files |= tokenizer_files(directory) | report_files(report or directory)
    if "results.json" not in files:
        files.pop("accuracy.png", None)
        if "README.md" in files and _UNWRITTEN in files["README.md"].read_text(encoding="utf-8"):
            del files["README.md"]  # the empty form that peft writes, which may name a local base
    chosen = {}
    for name, path in files.items():
        content = (
            None if name == "results.json" else public_content(name, path)
        )  # results.json is cleaned further below
        target = staged / name
        chosen[name] = path if path.suffix == _LINKED else target
        if path == target and content is None or path.suffix == _LINKED:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            shutil.copyfile(path, target)
        else:
            target.write_bytes(content)
    if "results.json" in chosen and "tokenizer_config.json" in chosen:
        chosen |= _pinned_templates(directory, staged, report or directory)
    if base is not None:
        _edit(staged / ADAPTER_CONFIG, base_model_name_or_path=base, revision=None)
    if "results.json" in chosen:
        chosen |= _staged_report(staged, files["results.json"], repository, base, include_documents, benchmark)
        if measured is None and _is_cheap(directory):
            measured = _probe(_load(directory), questions)
    if measured is not None:
        for name, path in chosen.items():
            if path.suffix == _LINKED and not (staged / name).exists():
                (staged / name).symlink_to(path.absolute())
        _require_same(measured, _load(staged), questions, directory, base)
    return chosen


def _staged_report(
    staged: Path, source: Path, repository: str, base: str | None, include_documents: bool, benchmark: str | None
) -> dict[str, Path]:
    """Write the card and the entries for benchmarks, and clean the staged `results.json`; the plot belongs to them.

    Raises:
        ConfigurationError: ``source``, the file that `results.json` was copied from, holds an access token.
    """
    from kinject.hub.card import write_card

    file = staged / "results.json"
    if base is not None:
        _edit(file, model=base, model_source="hub")
    written = {"README.md": write_card(staged, repository=repository, include_documents=include_documents)}
    results = json.loads(file.read_text(encoding="utf-8"))
    dataset = benchmark_of(results, benchmark)
    entries = None if dataset is None else write_entries(staged, results, dataset)
    written |= {} if entries is None else {ENTRIES: entries}
    written |= {"accuracy.png": staged / "accuracy.png"} if (staged / "accuracy.png").is_file() else {}
    if not include_documents and "document_texts" not in results:
        write_json(file, without_texts(results))
    if SECRET_VALUE.search(file.read_text(encoding="utf-8")):
        raise ConfigurationError(_SECRET.format(path=source))
    return written


def adapter_base(directory: Path) -> str:
    """The base model that the adapter in ``directory`` names."""
    return str(
        json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    )


def require_fitting_options(directory: Path, *, merge: bool, layout: str, base: str | None) -> None:
    """Refuse options of a push that do not apply to the model in ``directory``, an adapter or a whole model.

    Raises:
        ConfigurationError: names the option, and what it is for.
    """
    adapter = is_adapter(directory)
    require_layout(layout)
    if merge and not adapter:
        raise ConfigurationError(f"'{directory}' holds a whole model: there is nothing to merge. Leave --merge out.")
    if base is not None and (merge or not adapter):
        raise ConfigurationError("--base is for adapters that are published as such. Leave it out.")
    if adapter and not merge and layout != "native":
        raise ConfigurationError(
            f"an adapter has no key layout. Add --merge to publish a whole model in the layout '{layout}'."
        )


def _layout_of(directory: Path) -> Layout:
    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    own: dict[str, Layout] = {"llada": "llada", "sdar": "sdar", "sdar_moe": "sdar", "llada2_moe": "llada2"}
    if fields.get("model_type") == "llada" and "hidden_size" in fields and not fields.get("num_experts"):
        return "native"  # LLaDA's model_type, but Llama's names of weights
    return own.get(fields.get("model_type"), "native")


def _pinned_templates(directory: Path, staged: Path, report: Path) -> dict[str, Path]:
    """The chat templates that ask in the frame of the run; empty if ``directory`` has the same ones."""
    from transformers import AutoTokenizer

    from kinject.evaluation.results import read_results
    from kinject.prompts.encoding import pin_template

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    given = tokenizer.chat_template
    pin_template(tokenizer, read_results(report)["config"].get("system_prompt"))
    if tokenizer.chat_template == given:
        return {}
    templates = tokenizer.chat_template
    found = {}
    for name, source in (templates if isinstance(templates, dict) else {"default": templates}).items():
        file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        found[file] = staged / file
        found[file].parent.mkdir(exist_ok=True)
        found[file].write_text(source, encoding="utf-8")
    return found


def _write_whole(directory: Path, staged: Path, questions: Sequence[str], *, merge: bool, layout: Layout) -> Probe:
    """Load the model in ``directory``, merge it if asked, save it in ``layout``, and return its logits from before that."""
    from kinject.models import merge_adapter, save_model

    loaded = _load(directory)
    measured = _probe(loaded, questions)
    model: Any = loaded.model
    save_model(merge_adapter(model) if merge else model, staged, layout=layout, tokenizer=loaded.tokenizer)
    return measured


def _load(directory: Path) -> LoadedModel:
    from kinject.models import load_model

    return load_model(str(directory), dtype="auto")


def _questions(report: Path) -> Sequence[str]:
    """A few questions that the run asked; general ones if it asked none."""
    from kinject.evaluation.results import read_results

    if not (report / "results.json").is_file():
        return _PROBES
    asked = [str(entry["question"]) for entry in read_results(report).get("answers", ())]
    return asked[:: max(1, len(asked) // _PROBED_QUESTIONS)][:_PROBED_QUESTIONS] or _PROBES


def _is_cheap(directory: Path) -> bool:
    """Whether the model in ``directory`` loads quickly and without the network."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    from kinject.models.adapters import model_file
    from kinject.models.names import EMBEDDED_HUB_ID, OWN_MODELS

    if is_deepspeed_zero3_enabled():  # a run is going on, in which no process can load a model by itself
        return False
    folder = directory
    if is_adapter(directory):
        base = adapter_base(directory)
        if base in (*OWN_MODELS, EMBEDDED_HUB_ID):
            return True
        config = model_file(base, "config.json", local_files_only=True)
        if config is None:
            return False
        folder = config.parent
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return 0 < sum(sizes) <= _CHEAP_BYTES


def _probe(loaded: LoadedModel, questions: Sequence[str]) -> Probe:
    """The logits of a model at every token of a few prompts, and of one prompt with tokens from its whole vocabulary."""
    import torch

    from kinject.evaluation.asking import evaluating
    from kinject.models.diffusion import diffusion_settings, text_config
    from kinject.prompts.templates import QuestionTemplate

    model: Any = loaded.model
    try:
        template = QuestionTemplate(loaded.tokenizer)
        prompts = [template.encode(question) for question in questions]
    except ConfigurationError:  # the model has no chat template
        prompts = [list(loaded.tokenizer(question)["input_ids"]) for question in questions]
    size = text_config(model).vocab_size
    prompts.append(list(range(0, size, max(1, size // _PROBED_TOKENS))))
    hidden = [diffusion_settings(model).mask_token_id] * _PROBED_TOKENS if loaded.is_diffusion else []
    found = []
    with evaluating(model):
        for prompt in prompts:
            ids = torch.tensor([[*prompt, *hidden]], device=model.device)
            found.append((prompt, model(input_ids=ids).logits[0].float().cpu()))
    return found


def _require_same(
    measured: Probe, published: LoadedModel, questions: Sequence[str], directory: Path, base: str | None
) -> None:
    import torch

    weights = [weight.dtype for weight in published.model.parameters() if weight.is_floating_point()]
    allowed = max(_ROUNDING, _UNITS * max(torch.finfo(dtype).eps for dtype in weights))
    apart = []
    for (prompt, expected), (other, found) in zip(measured, _probe(published, questions), strict=True):
        if prompt != other or expected.shape != found.shape:
            raise ConfigurationError(
                f"the tokenizer of '{directory}' encodes questions otherwise than in the run, so that the model as published "
                "would not have the scores of its card. Nothing was published. Save the tokenizer of the run there again."
            )
        spread = (expected - expected.mean(-1, keepdim=True)).norm()
        apart.append(float((found - expected).norm() / spread.clamp(min=torch.finfo(torch.float32).tiny)))
    if not all(difference <= allowed for difference in apart):  # also refuses nan
        advice = (
            f"The adapter was trained on another base than '{base}': name that one with --base."
            if base is not None
            else "Publish it without --merge and --layout, and report this, please."
        )
        raise ConfigurationError(
            f"the model of '{directory}' as it would be published differs from the one that was measured: its logits differ by "
            f"{max(apart):.1%}, and rounding explains {allowed:.1%}. Nothing was published. {advice}"
        )


def _edit(path: Path, *, indent: int = 2, **changes: Any) -> None:
    """Change fields of a JSON file; a field with the value None is removed."""
    fields = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {name: value for name, value in fields.items() if name not in changes or value is not None}
    path.write_text(json.dumps(kept, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def uploads(chosen: dict[str, Path]) -> Iterator[Any]:
    """The operations of a commit that put ``chosen`` into a repository."""
    from huggingface_hub import CommitOperationAdd

    for name, path in sorted(chosen.items()):
        yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
