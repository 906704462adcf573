"""Adapters: which base they belong to, whether all their weights fit, and how a diffusion model is called with them.

PEFT stores no more than the adapter's own settings. That its base was turned into a masked diffusion model would be
lost, so `diffusion.json` beside the adapter says it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.models.checkpoint import require_all_weights

if TYPE_CHECKING:
    from os import PathLike

    from peft import PeftModel
    from transformers import PreTrainedModel

    from kinject.models.diffusion import DiffusionSettings

SETTINGS_FILE = "diffusion.json"


def write_diffusion_settings(directory: str | PathLike[str], model: Any) -> Path:
    """Write how the masked diffusion model ``model`` is called into `diffusion.json`, beside a saved adapter.

    Args:
        directory: Where the adapter is saved.
        model: The adapted model, or what wraps it.

    Raises:
        ConfigurationError: the model is causal, or names no mask token.
    """
    from kinject.models.diffusion import diffusion_settings

    path = Path(directory) / SETTINGS_FILE
    path.write_text(json.dumps(asdict(diffusion_settings(model)), indent=2) + "\n", encoding="utf-8")
    return path


def adapter_config(name: str, **hub: Any) -> dict[str, Any] | None:
    """The `adapter_config.json` of a directory or Hub id, or None where it holds no adapter."""
    path = model_file(name, "adapter_config.json", **hub)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def attach_adapter(model: PreTrainedModel | PeftModel, name: str, **hub: Any) -> PeftModel:
    """``model`` with the adapter ``name``, trainable, and a diffusion model if the adapter was trained as one.

    Raises:
        ConfigurationError: the adapter is of another architecture or incomplete, or it disagrees with ``model`` on
            how to call it.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    weights = model_file(name, "adapter_model.safetensors", **hub)
    if weights is None:
        raise ConfigurationError("the adapter holds no adapter_model.safetensors; pickled weights are not read.")
    _apply_settings(model, name, **hub)
    base: Any = model
    try:
        adapted = PeftModel.from_pretrained(base, name, is_trainable=True, **hub)
    except ValueError as error:
        raise ConfigurationError(f"the adapter does not fit its base model: {error}") from error
    with safe_open(str(weights), framework="pt") as file:
        found = set(file.keys())
    own, with_embeddings = (
        set(get_peft_model_state_dict(adapted, save_embedding_layers=kept)) for kept in (False, True)
    )
    require_all_weights(missing=own - found, unexpected=found - with_embeddings)
    return adapted


def _apply_settings(model: Any, name: str, **hub: Any) -> None:
    """Turn the base into the diffusion model that the adapter was trained on."""
    from kinject.models.diffusion import diffusion_settings, is_diffusion, text_config, to_diffusion

    path = model_file(name, SETTINGS_FILE, **hub)
    if path is None:
        return
    settings = _read_settings(path)
    if not is_diffusion(model):
        to_diffusion(model, settings.mask_token_id, shifted_logits=settings.shifted_logits)
        return
    config = text_config(model)
    if getattr(config, "mask_token_id", None) is None:
        config.mask_token_id = settings.mask_token_id
    if diffusion_settings(model) != settings:
        raise ConfigurationError(
            f"{SETTINGS_FILE} of the adapter says {asdict(settings)}, its base model {asdict(diffusion_settings(model))}"
            "; use the base that the adapter was trained on."
        )


def _read_settings(path: Path) -> DiffusionSettings:
    from kinject.models.diffusion import DiffusionSettings

    try:
        settings = DiffusionSettings(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ConfigurationError(
            f"{SETTINGS_FILE} of the adapter cannot be read ({error}); expected "
            '{"mask_token_id": <id>, "shifted_logits": true or false}.'
        ) from error
    return settings


def model_file(name: str, file: str, **hub: Any) -> Path | None:
    """``file`` of a directory or of a Hub repository, or None where there is none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )
    return None if found is None else Path(found)
