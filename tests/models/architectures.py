"""Tiny random models of the architectures of the real world."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4MoeConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

_LLAMA_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_GROUPED = {**_LLAMA_SHAPE, "num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, _GROUPED),
    "qwen2": (Qwen2Config, _GROUPED),
    "qwen3": (Qwen3Config, _GROUPED),
    "gemma": (GemmaConfig, _GROUPED),
    "gemma2": (Gemma2Config, {**_GROUPED, "sliding_window": 16}),
    "gemma3": (Gemma3TextConfig, {**_GROUPED, "sliding_window": 16}),
    "mistral": (MistralConfig, {**_GROUPED, "sliding_window": 16}),
    "phi": (PhiConfig, _LLAMA_SHAPE),
    "phi3": (Phi3Config, {**_LLAMA_SHAPE, "pad_token_id": 0}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neox": (GPTNeoXConfig, _LLAMA_SHAPE),
}
_MIXTURES: dict[str, tuple[type, dict[str, Any]]] = {
    "qwen3_moe": (
        Qwen3MoeConfig,
        {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": False},
    ),
    "glm4_moe": (
        Glm4MoeConfig,
        {
            **_GROUPED,
            **{"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1},
            **{"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "use_qk_norm": True, "num_mtp_layers": 0},
            **{"rope_parameters": {"rope_type": "default", "rope_theta": 600000.0, "partial_rotary_factor": 0.5}},
        },
    ),
}


def random_model(name: str, tokenizer: PreTrainedTokenizerFast, *, tied: bool = False, spare: int = 0) -> Any:
    """A random model of that architecture; ``spare`` rows of its embedding have no token."""
    config_class, shape = {**ARCHITECTURES, **_MIXTURES}[name]
    torch.manual_seed(0)
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = config_class(**{**special, **shape}, vocab_size=len(tokenizer) + spare, tie_word_embeddings=tied)
    return AutoModelForCausalLM.from_config(config)
