"""Which files of a trained directory are published, and that none of them tells a secret or a path of this machine.

What is not named here stays at home: checkpoints, optimizer states, training arguments, logs, pickled weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinject.errors import SECRET_VALUE, ConfigurationError
from kinject.results import public_name

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
REPORT_FILES = ("README.md", "results.json", "accuracy.png")
_ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "diffusion.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
_MODEL_FILES = ("config.json", "generation_config.json")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_CLEANED = (ADAPTER_CONFIG, "tokenizer_config.json", *_MODEL_FILES)
_PATH = re.compile(r"(file://|~?/|[A-Za-z]:[\\/])[^\s{}<>]*[\\/][^\s{}<>]*")  # all of a value; no template, no </s>


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
        shards = json.loads((directory / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        weights = (_INDEX, *sorted(set(shards)))
    return _present(directory, weights, required=True) | _present(directory, _MODEL_FILES)


def require_finite_files(files: Mapping[str, Path]) -> None:
    """Refuse weights that are nan or infinite: a run that diverged left them, and they answer nothing.

    Raises:
        ConfigurationError: names the file and the weight.
    """
    from safetensors import safe_open

    from kinject.models.checkpoint import all_finite

    for path in files.values():
        if path.suffix != ".safetensors":
            continue
        with safe_open(str(path), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # no mapping
                if not all_finite([opened.get_tensor(name)]):
                    raise ConfigurationError(
                        f"'{path}' holds weights that are not finite numbers (nan or inf), the first in {name}. The training "
                        "that wrote them diverged. Publish an earlier checkpoint, or train again with a lower learning rate."
                    )


def tokenizer_files(directory: Path) -> dict[str, Path]:
    """The tokenizer and chat templates in ``directory``, by name."""
    templates = sorted(each.name for each in (directory / "additional_chat_templates").glob("*.jinja"))
    more = tuple(f"additional_chat_templates/{name}" for name in templates)
    return _present(directory, _TOKENIZER_FILES + more)


def report_files(directory: Path) -> dict[str, Path]:
    """The card, the results with their plot, and the license in ``directory``, by name."""
    return _present(directory, REPORT_FILES + _LICENSES)


def replaceable(path: str) -> bool:
    """Whether a file of a repository is one that the next push may remove, as it belongs to what was there before."""
    return path in {*_ADAPTER_FILES, *_MODEL_FILES, *_TOKENIZER_FILES, _WEIGHTS, _INDEX, *REPORT_FILES[1:]} or bool(
        _SHARD.fullmatch(path)
    )


def public_content(name: str, path: Path) -> bytes | None:
    """What is uploaded of a text file: its settings without local paths; None for one that is uploaded as it is.

    Raises:
        ConfigurationError: the file holds an access token.
    """
    if path.suffix not in (".json", ".md", ".jinja", ".txt") or name == _INDEX:
        return None
    text = path.read_text(encoding="utf-8")
    if SECRET_VALUE.search(text):
        raise ConfigurationError(f"'{path}' holds what looks like a Hub access token. Remove it, and revoke the token.")
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
