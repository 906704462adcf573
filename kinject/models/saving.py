"""Saving: a whole model under the names of its native class, or in the layout of LLaDA's, SDAR's or LLaDA2's own code.

The inverse of `layouts.py`, whose tables it uses. Knows nothing of adapters and of the Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.models.layouts import (
    DROPPED,
    LLADA2_FIXED,
    LLADA2_KEPT,
    LLADA_BLOCK,
    LLADA_FIXED,
    LLADA_MOE_FIXED,
    LLADA_TOP,
)

if TYPE_CHECKING:
    from os import PathLike

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


Layout = Literal["native", "llada", "sdar", "llada2"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""The layouts in which a whole model can be saved."""

# By the native class: name of its own class, model_type and where that class is found.
_SDAR = {
    "qwen3": ("SDARForCausalLM", "sdar", "JetLM/SDAR-4B-Chat--{}_sdar.{}"),
    "qwen3_moe": ("SDARMoeForCausalLM", "sdar_moe", "JetLM/SDAR-30B-A3B-Chat--{}_sdar_moe.{}"),
}
_LLADA2_CODE = "inclusionAI/LLaDA2.0-mini--{}"
_REMOTE_CODE = "GSAI-ML/LLaDA-8B-Base--{}"  # where LLaDA's own loader finds its classes


def _require_words(layout: str, facts: Sequence[tuple[bool, str]], otherwise: str = "") -> None:
    """Refuse a model for which one of ``facts`` is false; each fact comes with what the model is or has instead.

    Raises:
        ConfigurationError: ``layout`` has no words for such a model; the message ends with what to do ``otherwise``.
    """
    reason = next((reason for held, reason in facts if not held), None)
    if reason is not None:
        raise ConfigurationError(
            f"the model cannot be saved in {layout}'s layout: it {reason}. Save it with layout='native'{otherwise}."
        )


def _block_facts(config: PreTrainedConfig) -> tuple[tuple[bool, str], ...]:
    """Facts that both layouts of block diffusion models need."""
    return (
        (getattr(config, "block_length", None) is not None, "is no block diffusion model"),
        (not getattr(config, "shifted_logits", False), "has shifted logits"),
        (getattr(config, "clean_attention", None) in (None, "block"), "attends to clean text causally"),
        (getattr(config, "mask_token_id", None) is not None, "names no mask token"),
    )


def llada_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The `config.json` in LLaDA's layout of a native masked diffusion model, or in LLaDA-MoE's of a Qwen3-MoE.

    The inverse of what reads it.

    Raises:
        ConfigurationError: LLaDA's layout has no words for such a model.
    """
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    heads = getattr(config, "num_attention_heads", 1)
    mixture = config.model_type == "qwen3_moe"
    facts = (
        (config.model_type == "llama" or mixture, f"is a {config.model_type}, not a Llama or Qwen3-MoE"),
        (not getattr(config, "is_causal", True), "is causal"),
        (getattr(config, "block_length", None) is None, "attends in blocks"),
        (not getattr(config, "shifted_logits", False), "has shifted logits"),
        (not getattr(config, "attention_bias", False), "has attention biases"),
        (not getattr(config, "mlp_bias", False), "has biases in its MLP"),
        (getattr(config, "hidden_act", None) == "silu", "has an activation other than silu"),
        (rope.get("rope_type") == "default", f"has {rope.get('rope_type')} rotary embeddings"),
        (getattr(config, "head_dim", 0) * heads == getattr(config, "hidden_size", 0), "has a head_dim of its own"),
    )
    _require_words("LLaDA", facts)
    values: Any = config
    if mixture:
        return _llada_moe_fields(values, rope)
    return {
        "architectures": ["LLaDAModelLM"],
        "auto_map": {
            "AutoConfig": _REMOTE_CODE.format("configuration_llada.LLaDAConfig"),
            "AutoModel": _REMOTE_CODE.format("modeling_llada.LLaDAModelLM"),
            "AutoModelForCausalLM": _REMOTE_CODE.format("modeling_llada.LLaDAModelLM"),
        },
        "model_type": "llada",
        **{field: value for field, value in LLADA_FIXED.items() if value is not None},
        "attention_dropout": values.attention_dropout,
        "d_model": values.hidden_size,
        "embedding_size": values.vocab_size,
        "init_std": values.initializer_range,
        "max_sequence_length": values.max_position_embeddings,
        "mlp_hidden_size": values.intermediate_size,
        "n_heads": values.num_attention_heads,
        "n_kv_heads": values.num_key_value_heads,
        "n_layers": values.num_hidden_layers,
        "rms_norm_eps": values.rms_norm_eps,
        "rope_full_precision": True,
        "rope_theta": rope["rope_theta"],
        "use_cache": False,
        "vocab_size": values.vocab_size,
        "weight_tying": bool(values.tie_word_embeddings),
        **{
            name: getattr(values, name)
            for name in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")
            if getattr(values, name, None) is not None
        },
    }


def _llada_moe_fields(config: Any, rope: Mapping[str, Any]) -> dict[str, Any]:
    """Without `auto_map`: what reads such a checkpoint, as llama.cpp's converter, goes by `architectures`."""
    facts = (
        (config.mask_token_id is not None, "names no mask token"),
        (not config.norm_topk_prob, "normalizes the weights of experts"),
        (config.decoder_sparse_step == 1 and not config.mlp_only_layers, "has layers without experts"),
    )
    _require_words("LLaDA-MoE", facts)
    unlike = ("moe_intermediate_size", "head_dim", "rope_parameters", "mlp_only_layers", "decoder_sparse_step")
    unsaid = ("is_causal", "shifted_logits", "layer_types", "sliding_window", "max_window_layers")
    kept = {name: value for name, value in config.to_dict().items() if name not in (*unlike, *unsaid, *DROPPED)}
    return {
        **_under_own_name(kept),
        **LLADA_MOE_FIXED,
        "architectures": ["LLaDAMoEModelLM"],
        "model_type": "llada",
        "expert_intermediate_size": config.moe_intermediate_size,
        "moe_layer_freq": [1] * config.num_hidden_layers,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "use_cache": False,
    }


def _under_own_name(fields: dict[str, Any]) -> dict[str, Any]:
    """The number of experts as Qwen3-MoE's own code calls it; transformers writes another name."""
    experts = fields.pop("num_local_experts", None)
    return fields if experts is None else {**fields, "num_experts": experts}


def sdar_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The `config.json` of SDAR's own code for a native block diffusion model: Qwen3's, and the length of a block.

    Raises:
        ConfigurationError: SDAR's layout has no words for such a model.
    """
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    facts = (
        (config.model_type in _SDAR, f"is a {config.model_type}, not a Qwen3"),
        *_block_facts(config),
        (
            config.model_type == "qwen3" or not config.tie_word_embeddings,
            "is a mixture of experts with tied embeddings",
        ),
        (rope.get("rope_type") == "default", f"has {rope.get('rope_type')} rotary embeddings"),
    )
    _require_words("SDAR", facts, ", or train a Qwen3 with --to_diffusion block --shifted_logits false")
    values: Any = config
    own = ("is_causal", "shifted_logits", "block_length", "clean_attention", "rope_parameters", "layer_types")
    kept = {name: value for name, value in values.to_dict().items() if name not in (*own, *DROPPED)}
    architecture, model_type, code = _SDAR[values.model_type]
    return {
        **_under_own_name(kept),
        "architectures": [architecture],
        "auto_map": {
            "AutoConfig": code.format("configuration", architecture.replace("ForCausalLM", "Config")),
            "AutoModel": code.format("modeling", architecture),
            "AutoModelForCausalLM": code.format("modeling", architecture),
        },
        "model_type": model_type,
        "block_size": values.block_length,
        "mask_token_id": values.mask_token_id,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_sliding_window": False,
    }


def llada2_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The `config.json` of LLaDA2's own code for a native block diffusion model: the inverse of what reads it.

    Raises:
        ConfigurationError: LLaDA2's layout has no words for such a model.
    """
    rope: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    facts = (
        (config.model_type == "glm4_moe", f"is a {config.model_type}, not a Glm4-MoE"),
        *_block_facts(config),
        (getattr(config, "use_qk_norm", False), "does not normalize queries and keys"),
        (not getattr(config, "attention_bias", False), "has attention biases"),
        (getattr(config, "norm_topk_prob", False), "does not normalize the weights of experts"),
        (rope.get("rope_type") == "default", f"has {rope.get('rope_type')} rotary embeddings"),
    )
    _require_words("LLaDA2", facts)
    values: Any = config
    head_dim = getattr(values, "head_dim", None) or values.hidden_size // values.num_attention_heads
    rotary = rope.get("partial_rotary_factor", 0.5)
    return {
        **{name: getattr(values, name) for name in LLADA2_KEPT if getattr(values, name, None) is not None},
        **{name: value for name, value in LLADA2_FIXED.items() if name != "use_qk_norm"},
        "architectures": ["LLaDA2MoeModelLM"],
        "auto_map": {
            "AutoConfig": _LLADA2_CODE.format("configuration_llada2_moe.LLaDA2MoeConfig"),
            "AutoModel": _LLADA2_CODE.format("modeling_llada2_moe.LLaDA2MoeModel"),
            "AutoModelForCausalLM": _LLADA2_CODE.format("modeling_llada2_moe.LLaDA2MoeModelLM"),
        },
        "model_type": "llada2_moe",
        "block_size": values.block_length,
        "head_dim": head_dim,
        "num_experts": values.n_routed_experts,
        "num_shared_experts": values.n_shared_experts,
        "partial_rotary_factor": rotary,
        "rope_scaling": None,
        "rope_theta": rope["rope_theta"],
        "rotary_dim": int(head_dim * rotary),
        "use_cache": False,
        "use_sliding_window": False,
    }


def llada_names(names: Iterable[str]) -> dict[str, str]:
    """The name in LLaDA's layout of each native weight: the inverse of `KEY_MAPPING`.

    Raises:
        ConfigurationError: a weight has no place in that layout.
    """
    top = {ours: f"model.transformer.{theirs}" for theirs, ours in LLADA_TOP.items()}
    block = {ours: theirs for theirs, ours in LLADA_BLOCK.items()}
    renamed = {}
    for name in names:
        module, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
        if module in top:
            renamed[name] = f"{top[module]}.{kind}"
        elif layer and layer[2] in block:
            renamed[name] = f"model.transformer.blocks.{layer[1]}.{block[layer[2]]}.{kind}"
        else:
            raise ConfigurationError(f"weight {name} has no place in LLaDA's layout; save it with layout='native'.")
    return renamed


# Saving, in the native layout or in that of another family's own code.


def save_model(
    model: PreTrainedModel,
    directory: str | PathLike[str],
    *,
    layout: Layout = "native",
    tokenizer: PreTrainedTokenizerBase | None = None,
    state_dict: dict[str, torch.Tensor] | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Save ``model`` so that `load_model` reads it back.

    Args:
        model: A whole model, not an adapter: merge one first, with `kinject.models.merge_adapter`.
        directory: Created if need be.
        layout: `native` is what transformers loads, bidirectional as it stands; `llada` has the names of weights and
            the `config.json` of LLaDA's own code, `sdar` of SDAR's and `llada2` of LLaDA2's, which servers take for block
            diffusion.
        tokenizer: Saved beside the model if given.
        state_dict: The gathered weights of a sharded model, under native names; the model's own if left out.
        max_shard_size: Of one file of weights.

    Raises:
        ConfigurationError: the layout is unknown, or cannot hold such a model.
    """
    require_layout(layout)
    if layout == "native":
        model.save_pretrained(directory, state_dict=state_dict, max_shard_size=max_shard_size)
    else:
        _save_foreign(model, Path(directory), state_dict, max_shard_size, layout)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def require_layout(layout: str) -> None:
    """Refuse an unknown layout.

    Raises:
        ConfigurationError: it is none of `LAYOUTS`.
    """
    if layout not in LAYOUTS:
        raise ConfigurationError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}.")


def _save_foreign(
    model: PreTrainedModel,
    directory: Path,
    state_dict: dict[str, torch.Tensor] | None,
    max_shard_size: str,
    layout: Literal["llada", "sdar", "llada2"],
) -> None:
    from huggingface_hub import save_torch_state_dict

    if hasattr(model, "peft_config") or getattr(model, "is_quantized", False):
        raise ConfigurationError(
            f"the layout '{layout}' holds whole models only, not adapters or quantized weights. Merge the adapter into an "
            "unquantized base with merge_and_unload first."
        )
    fields = {"llada": llada_fields, "sdar": sdar_fields, "llada2": llada2_fields}[layout](model.config)
    directory.mkdir(parents=True, exist_ok=True)
    if model.config.model_type == "qwen3_moe":  # whose weights have the same names in both
        model.save_pretrained(directory, state_dict=state_dict, max_shard_size=max_shard_size)
    else:
        weights = _foreign_weights(model, state_dict, layout)
        save_torch_state_dict(weights, directory, max_shard_size=max_shard_size, metadata={"format": "pt"})
    fields["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    (directory / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(directory)


def _foreign_weights(
    model: PreTrainedModel, state_dict: dict[str, torch.Tensor] | None, layout: Literal["llada", "sdar", "llada2"]
) -> dict[str, Any]:
    """The weights under the names of ``layout``."""
    weights: dict[str, Any] = dict(model.state_dict() if state_dict is None else state_dict)
    if layout == "llada2":
        return compat.llada2_weights(model, weights)
    if layout == "llada":
        if model.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        names = llada_names(weights)
        return {names[name]: weight for name, weight in weights.items()}
    # SDAR's head is always its own.
    return {**weights, "lm_head.weight": weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).clone()}
