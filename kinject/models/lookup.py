"""Looks at what belongs to a model without loading its weights, and without asking the Hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.models.adapters import adapter_config, own_tokenizer
from kinject.models.layouts import loading_options
from kinject.models.loading import (
    EMBEDDED_FILE,
    EMBEDDED_HUB_ID,
    EMBEDDED_MODEL,
    EMBEDDED_PACKAGE,
    NANO_DIRECTORY,
    NANO_MODELS,
    is_hub_id,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def look_up(name: str) -> tuple[PreTrainedTokenizerBase, int] | None:
    """The tokenizer of the model or adapter ``name``, and the rows of its embedding.

    Args:
        name: As `load_model` takes it. Of Hub ids only the local cache is read.

    Returns:
        None where a Hub id is not in the cache.

    Raises:
        ConfigurationError: a directory is missing or holds no model.
    """
    from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

    path, options = str(NANO_DIRECTORY / NANO_MODELS[name]) if name in NANO_MODELS else name, {}
    if name in (EMBEDDED_MODEL, EMBEDDED_HUB_ID):
        package = importlib.util.find_spec(EMBEDDED_PACKAGE)
        if package is not None and package.origin is not None:
            path, options = str(Path(package.origin).parent), {"gguf_file": EMBEDDED_FILE}
        else:
            path = EMBEDDED_HUB_ID
    local = Path(path).is_dir()
    if not local and not is_hub_id(path):
        raise ConfigurationError(f"model '{name}': no such directory, and no Hub id such as user/name.")
    adapter = adapter_config(path, local_files_only=True) if not options else None
    if adapter is not None:
        base = look_up(str(adapter["base_model_name_or_path"]))
        own = own_tokenizer(path, local_files_only=True)
        return base if base is None or own is None else (own, base[1])
    reading: dict[str, Any] = {**options, "local_files_only": True, "trust_remote_code": False}
    try:
        translated = (
            {} if options else loading_options(PreTrainedConfig.get_config_dict(path, local_files_only=True)[0])
        )
        config = translated["config"] if "config" in translated else AutoConfig.from_pretrained(path, **reading)
        tokenizer = AutoTokenizer.from_pretrained(
            path, **reading, **({"config": PreTrainedConfig()} if translated else {})
        )
    except (OSError, ValueError) as error:
        if not local:
            return None
        raise ConfigurationError(f"model '{name}': could not be read: {' '.join(str(error).split())}") from error
    return tokenizer, int(config.get_text_config().vocab_size)
