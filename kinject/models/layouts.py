"""Layouts of checkpoints: LLaDA, SDAR, LLaDA2 and others, read into native classes of transformers without remote code.

Reads the names of weights from the headers of files, too. `saving.py` writes layouts. Knows nothing of tokenizers' texts and
of training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject import compat
from kinject.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedConfig


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
LLADA_MOE_FIXED = {
    **{"qk_layernorm": True, "attention_bias": False, "clip_qkv": None, "partial_rotary_factor": 1.0},
    **{"moe_router_score_function": "softmax", "moe_router_enable_expert_bias": False, "routed_scaling_factor": 1.0},
    **{"router_num_group": None, "router_topk_group": None, "num_nextn_predict_layers": 0},
    **{"shared_expert_intermediate_size": None, "num_shared_experts": 0},
}
_MIXTURE_MASK = 156895  # where its config.json names none
# With these options, and no others, LLaDA2.x (inclusionAI) is a Glm4-MoE in blocks, with other names of weights.
LLADA2_FIXED: dict[str, Any] = {
    **{"use_bias": False, "use_qkv_bias": False, "use_qk_norm": True, "use_rmsnorm": True, "hidden_act": "silu"},
    **{"score_function": "sigmoid", "norm_topk_prob": True, "moe_router_enable_expert_bias": True},
    **{"embedding_dropout": 0.0, "output_dropout": 0.0, "using_split_qkv_in_self_attention": False},
    **{"num_nextn_predict_layers": 0, "router_dtype": "fp32"},
}
LLADA2_KEPT = (
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
DROPPED = ("model_type", "architectures", "auto_map", "transformers_version", "use_cache", *_NATIVE_FIXED)


def is_diffusion_config(fields: Mapping[str, Any]) -> bool | None:
    """Whether a `config.json` is that of a masked diffusion model; None where it holds the configurations of several models."""
    model_type = fields.get("model_type")
    if model_type == "diffusion_gemma" or isinstance(fields.get("text_config"), dict):
        return None
    foreign = model_type in _NATIVE_WEIGHTS or model_type in _BLOCK_WEIGHTS or model_type == "llada2_moe"
    return foreign or fields.get("is_causal") is False


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
    values = {field: value for field, value in fields.items() if field not in DROPPED}
    # Left out, the end of a text would take the native class's default.
    ids = {name: values.pop(name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")}
    facts = {"is_causal": False, "shifted_logits": shifted_logits, "use_cache": False}
    return AutoConfig.for_model(model_type, **values, **ids, **facts)


def _mixture_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """LLaDA-MoE's configuration as that of Qwen3-MoE, which has the same names of weights."""
    layers = fields.get("moe_layer_freq", 1)  # of which one in so many has experts; told once, or layer by layer
    every = [1] * len(layers) if isinstance(layers, list) else 1
    require_fixed(fields, {**LLADA_MOE_FIXED, "moe_layer_freq": every})
    own = {
        name: value
        for name, value in fields.items()
        if name not in (*LLADA_MOE_FIXED, "expert_intermediate_size", "moe_layer_freq", *_TRAINING_ONLY)
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
    require_fixed(fields, LLADA2_FIXED)
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    require_fixed({"rope_type": rope.get("rope_type", rope.get("type"))}, {"rope_type": "default"})
    rotary = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    head_dim = fields.get("head_dim") or _size(fields, "hidden_size") // _size(fields, "num_attention_heads")
    if rotary is None:
        rotary = fields.get("rotary_dim", head_dim / 2) / head_dim
    require_fixed(fields, {"rotary_dim": int(head_dim * rotary)})
    own = {name: fields[name] for name in LLADA2_KEPT if name in fields} | {
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


def require_language_model(fields: Mapping[str, Any], trust_remote_code: bool = False) -> None:
    """Refuse a `config.json` that `loading_options` would refuse for its `model_type`, without importing transformers.

    Raises:
        ConfigurationError: no native class holds such a model.
    """
    model_type = fields.get("model_type")
    if trust_remote_code and fields.get("auto_map"):
        return
    known = (*_NATIVE_WEIGHTS, *_BLOCK_WEIGHTS, "diffusion_gemma", "llada2_moe", *compat.causal_types())
    if model_type not in known:
        raise _no_language_model(model_type)


def _require_native(model_type: str | None) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    causal = compat.causal_classes()
    if model_type is None or model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in causal:
        raise _no_language_model(model_type)


def _no_language_model(model_type: Any) -> ConfigurationError:
    if model_type in compat.model_types():
        return ConfigurationError(
            f"config.json has model_type {model_type!r}, which is no language model that transformers "
            f"{metadata.version('transformers')} has a class for, but another kind of model. Name one that writes text from "
            "left to right, or a masked diffusion model."
        )
    if model_type is None:
        return ConfigurationError(
            "config.json has no model_type, and so does not tell of which class the model is; remote code is not run unasked. "
            "Use the config.json that belongs to the model; or, if you trust its authors, --trust_remote_code true."
        )
    close = did_you_mean(str(model_type), [*compat.causal_types(), *_NATIVE_WEIGHTS, *_BLOCK_WEIGHTS])
    return ConfigurationError(
        f"config.json has model_type {model_type!r}, which is no language model that transformers "
        f"{metadata.version('transformers')} has a class for, and remote code is not run unasked{close} Use a checkpoint of a "
        "native architecture, or of LLaDA's layout; or, if you trust its authors, --trust_remote_code true."
    )


# LLaDA's layout and the native Llama class: configuration and names of weights, in both directions.

LLADA_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
LLADA_BLOCK = {
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
    **{rf"^model\.transformer\.{theirs}\.": f"{ours}." for theirs, ours in LLADA_TOP.items()},
    **{
        rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{ours}."
        for theirs, ours in LLADA_BLOCK.items()
    },
}
# The options that Llama's block has. A configuration without one of these fields is assumed to have this value, since other
# options need other weights, which would then be missing.
LLADA_FIXED: dict[str, Any] = {
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


def llama_weights(layers: int) -> dict[str, tuple[int, ...]]:
    """The weights of a Llama whose output head is its embedding, by name; of a shape only the number of dimensions is right."""
    names = [name for name in LLADA_TOP.values() if name != "lm_head"]
    names += [f"model.layers.{layer}.{name}" for layer in range(layers) for name in LLADA_BLOCK.values()]
    return {f"{name}.weight": (0,) if name.endswith("norm") else (0, 0) for name in names}


def stored_weights(directory: Path) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the weights of the model in ``directory`` by their names in memory; only headers of files are read.

    Returns:
        None where there are no whole safetensors files, and where the names in memory may be others: of a mixture of experts,
        of a language model inside a larger one, and of a checkpoint whose names lack their first part (`layers.0` instead of
        `model.layers.0`).
    """
    from safetensors import SafetensorError, safe_open

    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        if index.is_file() and not single.is_file():
            mapped = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted(directory / file for file in set(mapped.values()))
        else:
            files = [single]
        for file in files:
            with safe_open(file, framework="np") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None  # whoever loads it says what is wrong
    nested = any(name.endswith("_config") and name != "quantization_config" for name in fields)
    if nested or any("expert" in name and value for name, value in fields.items()):
        return None
    if fields.get("model_type") == "llada" and "hidden_size" not in fields:
        shapes = {_renamed(name): shape for name, shape in shapes.items()}
    tops = {name.partition(".")[0] for name in shapes}
    heads = [shape for name, shape in shapes.items() if name in {f"{top}.weight" for top in tops}]
    if len(tops) == 2 and heads:  # transformers may call it so as it loads
        shapes["lm_head.weight"] = heads[0]
    return shapes if len(tops) in (1, 2) else None


def _renamed(name: str) -> str:
    """The name in the native class of a weight in LLaDA's layout."""
    for theirs, ours in KEY_MAPPING.items():
        name, count = re.subn(theirs, ours, name)
        if count:
            break
    return name


def native_config(fields: Mapping[str, Any]) -> LlamaConfig:
    """The Llama configuration of a checkpoint in LLaDA's layout.

    Args:
        fields: its `config.json`.

    Raises:
        ConfigurationError: a size is missing, or the configuration asks for what Llama's block cannot do.
    """
    from transformers import LlamaConfig

    require_fixed(fields, LLADA_FIXED)
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
