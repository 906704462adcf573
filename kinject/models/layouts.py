"""What `config.json` says a checkpoint is, and which native class it loads into; remote code runs only if asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.models.llada import KEY_MAPPING, native_config, require_fixed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Masked diffusion checkpoints with the weights of a native class under a name of their own: that class, and whether
# their logits are shifted. iLLaDA (arXiv 2606.25331) is a Llama, Dream (arXiv 2508.15487) a Qwen2.
_NATIVE_WEIGHTS = {"llada": ("llama", False), "illada": ("llama", False), "Dream": ("qwen2", True)}
_NATIVE_FIXED = {"layer_norm_eps": None, "resid_pdrop": 0.0, "use_mrope": False, "use_sliding_window": False}
_DROPPED = ("model_type", "architectures", "auto_map", "transformers_version", "use_cache", *_NATIVE_FIXED)


def loading_options(fields: Mapping[str, Any], trust_remote_code: bool = False) -> dict[str, Any]:
    """What `from_pretrained` needs besides the checkpoint: nothing for a model that transformers knows.

    Args:
        fields: the checkpoint's `config.json`.
        trust_remote_code: whether classes that come with the checkpoint may be run, where transformers has none.

    Returns:
        `config`, and `key_mapping` where the weights have other names.

    Raises:
        ConfigurationError: no native class holds such a model.
    """
    model_type = fields.get("model_type")
    mixture = [field for field in ("num_experts", "n_routed_experts") if fields.get(field)]
    if model_type in _NATIVE_WEIGHTS and mixture:
        raise ConfigurationError(
            f"config.json has model_type {model_type!r} with {mixture[0]} = {fields[mixture[0]]}: mixtures of experts "
            "in a layout of their own (LLaDA-MoE) are not supported. Use a dense checkpoint, such as "
            "GSAI-ML/LLaDA-8B-Base."
        )
    if model_type == "llada" and "hidden_size" not in fields:
        return {"config": native_config(fields), "key_mapping": KEY_MAPPING}
    if model_type in _NATIVE_WEIGHTS:
        return {"config": _config_under_another_name(fields, *_NATIVE_WEIGHTS[model_type])}
    if not (trust_remote_code and fields.get("auto_map")):
        _require_native(model_type)
    return {}


def _config_under_another_name(fields: Mapping[str, Any], model_type: str, shifted_logits: bool) -> PreTrainedConfig:
    from transformers import AutoConfig

    require_fixed(fields, _NATIVE_FIXED)
    values = {field: value for field, value in fields.items() if field not in _DROPPED}
    # Left out, the end of a text would take the native class's default.
    ids = {name: values.pop(name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")}
    facts = {"is_causal": False, "shifted_logits": shifted_logits, "use_cache": False}
    return AutoConfig.for_model(model_type, **values, **ids, **facts)


def _require_native(model_type: str | None) -> None:
    from transformers import AutoModelForCausalLM, __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    causal: Any = AutoModelForCausalLM._model_mapping
    if model_type is None or model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in causal:
        raise ConfigurationError(
            f"config.json has model_type {model_type!r}, which is no language model that transformers {__version__} "
            "has a class for, and remote code is not run unasked. Use a checkpoint of a native architecture, or of "
            "LLaDA's layout; or, if you trust its authors, --trust_remote_code true."
        )
