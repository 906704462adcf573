"""Checkpoint layouts: names of weights and configurations of native classes and of LLaDA, SDAR and LLaDA2, read and written.

A checkpoint of these families is loaded into a class of transformers, so that no remote code is needed. Knows nothing of
tokenizers' texts and of training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kinject import compat
from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from os import PathLike

    import torch
    from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


Layout = Literal["native", "llada", "sdar", "llada2"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""The layouts in which a whole model can be saved."""

# Masked diffusion checkpoints whose weights are those of a native class, by their model_type: that class, and whether their
# logits are shifted. iLLaDA (arXiv 2606.25331) is a Llama, Dream (arXiv 2508.15487) a Qwen2.
_NATIVE_WEIGHTS = {"llada": ("llama", False), "illada": ("llama", False), "Dream": ("qwen2", True)}
_NATIVE_FIXED = {"layer_norm_eps": None, "resid_pdrop": 0.0, "use_mrope": False, "use_sliding_window": False}
# The same for block diffusion checkpoints, with defaults of mask token and block length where config.json has none. a2d-*
# (dllm) attends in blocks only if its config.json has a block length.
_BLOCK_WEIGHTS: dict[str, tuple[str, bool, int | None, int | None]] = {
    "sdar": ("qwen3", False, 151669, 4),
    "sdar_moe": ("qwen3_moe", False, 151669, 4),
    "Fast_dLLM_Qwen": ("qwen2", True, 151665, 32),
    **{f"a2d-{name}": (name, False, None, None) for name in ("llama", "qwen2", "qwen3")},
}
_BLOCK_LENGTHS = ("block_length", "block_size", "bd_size")  # names of the same field
_TRAINING_ONLY = (
    *("debug", "ep_size", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep"),
    *("attn_implementation", "_attn_implementation"),
)
# With these options, and no others, LLaDA-MoE is a Qwen3-MoE, weight by weight.
_MIXTURE_FIXED = {
    **{"qk_layernorm": True, "attention_bias": False, "clip_qkv": None, "partial_rotary_factor": 1.0},
    **{"moe_router_score_function": "softmax", "moe_router_enable_expert_bias": False, "routed_scaling_factor": 1.0},
    **{"router_num_group": None, "router_topk_group": None, "num_nextn_predict_layers": 0},
    **{"shared_expert_intermediate_size": None, "num_shared_experts": 0},
}
_MIXTURE_MASK = 156895  # where its config.json names none
# With these options, and no others, LLaDA2.x (inclusionAI) is a Glm4-MoE in blocks, with other names of weights.
_LLADA2_FIXED: dict[str, Any] = {
    **{"use_bias": False, "use_qkv_bias": False, "use_qk_norm": True, "use_rmsnorm": True, "hidden_act": "silu"},
    **{"score_function": "sigmoid", "norm_topk_prob": True, "moe_router_enable_expert_bias": True},
    **{"embedding_dropout": 0.0, "output_dropout": 0.0, "using_split_qkv_in_self_attention": False},
    **{"num_nextn_predict_layers": 0, "router_dtype": "fp32"},
}
_LLADA2_KEPT = (
    *(
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ),
    *("head_dim", "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings"),
    *(
        "attention_dropout",
        "moe_intermediate_size",
        "num_experts_per_tok",
        "routed_scaling_factor",
        "n_group",
        "topk_group",
    ),
    *("first_k_dense_replace", "bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "output_router_logits"),
)
_LLADA2_MASK, _LLADA2_BLOCK, _LLADA2_THETA = 156895, 32, 600_000.0  # where its config.json is silent
_DROPPED = ("model_type", "architectures", "auto_map", "transformers_version", "use_cache", *_NATIVE_FIXED)


def loading_options(fields: Mapping[str, Any], trust_remote_code: bool = False) -> dict[str, Any]:
    """Further arguments of `from_pretrained` for a checkpoint; none for a model that transformers knows.

    Args:
        fields: The checkpoint's `config.json`.
        trust_remote_code: Whether classes that come with the checkpoint may be run, if transformers has none.

    Returns:
        `config`; `key_mapping` if the weights have other names; `loader`, the class that reads them, if it is not that of
        causal language models.

    Raises:
        ConfigurationError: no native class holds such a model.
    """
    model_type = fields.get("model_type")
    mixture = [field for field in ("num_experts", "n_routed_experts") if fields.get(field)]
    if model_type == "llada" and mixture == ["num_experts"]:
        return {"config": _mixture_config(fields)}
    if model_type in _NATIVE_WEIGHTS and mixture:
        raise ConfigurationError(
            f"config.json has model_type {model_type!r} with {mixture[0]} = {fields[mixture[0]]}: mixtures of experts in "
            "another layout than LLaDA-MoE's are not supported. Use inclusionAI/LLaDA-MoE-7B-A1B-Instruct, or a dense "
            "checkpoint such as GSAI-ML/LLaDA-8B-Instruct."
        )
    if model_type == "llada" and "hidden_size" not in fields:
        return {"config": native_config(fields), "key_mapping": KEY_MAPPING}
    if model_type in _NATIVE_WEIGHTS:
        return {"config": _config_under_another_name(fields, *_NATIVE_WEIGHTS[model_type])}
    if model_type == "diffusion_gemma":
        from transformers import DiffusionGemmaForBlockDiffusion

        return {"loader": DiffusionGemmaForBlockDiffusion}
    if model_type == "llada2_moe":
        return {"config": _llada2_config(fields), "loader": compat.llada2_class()}
    if model_type in _BLOCK_WEIGHTS:
        return {"config": _block_config(fields, *_BLOCK_WEIGHTS[model_type])}
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


def _mixture_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """LLaDA-MoE's configuration as that of Qwen3-MoE, which has the same names of weights."""
    layers = fields.get("moe_layer_freq", 1)  # of which one in so many has experts; told once, or layer by layer
    every = [1] * len(layers) if isinstance(layers, list) else 1
    require_fixed(fields, {**_MIXTURE_FIXED, "moe_layer_freq": every})
    own = {
        name: value
        for name, value in fields.items()
        if name not in (*_MIXTURE_FIXED, "expert_intermediate_size", "moe_layer_freq", *_TRAINING_ONLY)
    }
    own |= {
        "moe_intermediate_size": _size(fields, "expert_intermediate_size"),
        "head_dim": _size(fields, "hidden_size") // _size(fields, "num_attention_heads"),
        "norm_topk_prob": False,  # LLaDA-MoE's code never does, also if config.json says so
        "attention_bias": False,
        "mask_token_id": _MIXTURE_MASK if fields.get("mask_token_id") is None else fields["mask_token_id"],
    }
    return _config_under_another_name(own, "qwen3_moe", shifted_logits=False)


def _block_config(
    fields: Mapping[str, Any], model_type: str, shifted: bool, mask_token_id: int | None, block_length: int | None
) -> PreTrainedConfig:
    told = {name: fields[name] for name in _BLOCK_LENGTHS if fields.get(name) is not None}
    if len(set(told.values())) > 1:
        raise ConfigurationError(
            f"config.json has {told}, which disagree; keep the one that the model was trained with."
        )
    own = {name: value for name, value in fields.items() if name not in (*_BLOCK_LENGTHS, *_TRAINING_ONLY)}
    if own.get("mask_token_id") is None:
        own["mask_token_id"] = mask_token_id
    config: Any = _config_under_another_name(own, model_type, shifted)
    length = next(iter(told.values()), block_length)
    if length is not None:
        config.block_length = length
    return config


def _llada2_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """LLaDA2.x's configuration as that of Glm4-MoE."""
    require_fixed(fields, _LLADA2_FIXED)
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    require_fixed({"rope_type": rope.get("rope_type", rope.get("type"))}, {"rope_type": "default"})
    rotary = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    head_dim = fields.get("head_dim") or _size(fields, "hidden_size") // _size(fields, "num_attention_heads")
    if rotary is None:
        rotary = fields.get("rotary_dim", head_dim / 2) / head_dim
    require_fixed(fields, {"rotary_dim": int(head_dim * rotary)})
    own = {name: fields[name] for name in _LLADA2_KEPT if name in fields} | {
        "head_dim": head_dim,
        "n_routed_experts": _size(fields, "num_experts"),
        "n_shared_experts": _size(fields, "num_shared_experts"),
        "use_qk_norm": True,
        "norm_topk_prob": True,
        "attention_bias": False,
        "num_mtp_layers": 0,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(rope.get("rope_theta", fields.get("rope_theta", _LLADA2_THETA))),
            "partial_rotary_factor": rotary,
        },
    }
    blocks = {name: fields[name] for name in _BLOCK_LENGTHS if name in fields}
    return _block_config({**own, **blocks}, "glm4_moe", False, _LLADA2_MASK, _LLADA2_BLOCK)


def _require_native(model_type: str | None) -> None:
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    causal = compat.causal_classes()
    if model_type is None or model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in causal:
        raise ConfigurationError(
            f"config.json has model_type {model_type!r}, which is no language model that transformers {__version__} "
            "has a class for, and remote code is not run unasked. Use a checkpoint of a native architecture, or of "
            "LLaDA's layout; or, if you trust its authors, --trust_remote_code true."
        )


# LLaDA's layout and the native Llama class: configuration and names of weights, in both directions.

_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
# For `from_pretrained`, which replaces one group in a pattern; weights of a pattern with two groups would stay random.
KEY_MAPPING = {
    **{rf"^model\.transformer\.{theirs}\.": f"{ours}." for theirs, ours in _TOP.items()},
    **{
        rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{ours}."
        for theirs, ours in _BLOCK.items()
    },
}
# The options that Llama's block has. A configuration without one of these fields is assumed to have this value, since other
# options need other weights, which would then be missing.
_FIXED: dict[str, Any] = {
    "block_type": "llama",
    "block_group_size": 1,
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "rope": True,
    "alibi": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "clip_qkv": None,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
}
# By the native class: name of its own class, model_type and where that class is found.
_SDAR = {
    "qwen3": ("SDARForCausalLM", "sdar", "JetLM/SDAR-4B-Chat--{}_sdar.{}"),
    "qwen3_moe": ("SDARMoeForCausalLM", "sdar_moe", "JetLM/SDAR-30B-A3B-Chat--{}_sdar_moe.{}"),
}
_LLADA2_CODE = "inclusionAI/LLaDA2.0-mini--{}"
_REMOTE_CODE = "GSAI-ML/LLaDA-8B-Base--{}"  # where LLaDA's own loader finds its classes


def native_config(fields: Mapping[str, Any]) -> LlamaConfig:
    """The Llama configuration of a checkpoint in LLaDA's layout.

    Args:
        fields: its `config.json`.

    Raises:
        ConfigurationError: a size is missing, or the configuration asks for what Llama's block cannot do.
    """
    from transformers import LlamaConfig

    require_fixed(fields, _FIXED)
    vocab_size = fields.get("embedding_size") or _size(fields, "vocab_size")
    width, heads = _size(fields, "d_model"), _size(fields, "n_heads")
    if width % heads:
        raise ConfigurationError(f"config.json has d_model = {width}, which n_heads = {heads} does not divide.")
    diffusion: dict[str, Any] = {
        "is_causal": False,
        "mask_token_id": fields.get("mask_token_id"),
        "shifted_logits": False,
    }
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=fields.get("mlp_hidden_size") or _size(fields, "mlp_ratio") * width,
        num_hidden_layers=_size(fields, "n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=fields.get("n_kv_heads") or (1 if fields.get("multi_query_attention") else heads),
        max_position_embeddings=_size(fields, "max_sequence_length"),
        rms_norm_eps=fields.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": float(fields.get("rope_theta", 10_000.0))},
        attention_dropout=fields.get("attention_dropout", 0.0),
        tie_word_embeddings=bool(fields.get("weight_tying", False)),
        initializer_range=fields.get("init_std", 0.02),
        bos_token_id=fields.get("bos_token_id"),
        eos_token_id=fields.get("eos_token_id"),
        pad_token_id=fields.get("pad_token_id"),
        use_cache=False,
        **diffusion,
    )


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
        **{field: value for field, value in _FIXED.items() if value is not None},
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
    kept = {name: value for name, value in config.to_dict().items() if name not in (*unlike, *unsaid, *_DROPPED)}
    return {
        **_under_own_name(kept),
        **_MIXTURE_FIXED,
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
    kept = {name: value for name, value in values.to_dict().items() if name not in (*own, *_DROPPED)}
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
        **{name: getattr(values, name) for name in _LLADA2_KEPT if getattr(values, name, None) is not None},
        **{name: value for name, value in _LLADA2_FIXED.items() if name != "use_qk_norm"},
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
    top = {ours: f"model.transformer.{theirs}" for theirs, ours in _TOP.items()}
    block = {ours: theirs for theirs, ours in _BLOCK.items()}
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


def require_fixed(fields: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse a configuration with features that the native class lacks.

    Raises:
        ConfigurationError: a field has another value than ``fixed`` has for it.
    """
    for field, value in fixed.items():
        given = fields.get(field)
        if given is not None and given != value:
            raise ConfigurationError(
                f"config.json has {field} = {given!r}; the checkpoint loads into the native class of its "
                f"architecture, which needs {field} = {value!r}. Use a checkpoint that was trained so."
            )


def _size(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(
            f"config.json has {name} = {value!r}; expected a whole number of at least 1, as in LLaDA-8B's."
        )
    return value


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
        _save_weights(model, directory, state_dict, max_shard_size, layout)
    fields["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    (directory / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(directory)


def _save_weights(
    model: PreTrainedModel,
    directory: Path,
    state_dict: dict[str, torch.Tensor] | None,
    max_shard_size: str,
    layout: Literal["llada", "sdar", "llada2"],
) -> None:
    from huggingface_hub import save_torch_state_dict

    weights: dict[str, Any] = dict(model.state_dict() if state_dict is None else state_dict)
    if layout == "llada":
        if model.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        names = llada_names(weights)
    elif layout == "llada2":
        weights = compat.llada2_weights(model, weights)
        names = {name: name for name in weights}
    else:  # whose head is always its own
        weights["lm_head.weight"] = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).clone()
        names = {name: name for name in weights}
    save_torch_state_dict(
        {names[name]: weight for name, weight in weights.items()},
        directory,
        max_shard_size=max_shard_size,
        metadata={"format": "pt"},
    )
