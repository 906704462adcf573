"""Writes a small random checkpoint in LLaDA's own layout: its `config.json`, names of weights and kind of tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.conftest import build_tokenizer


def llada_config(**changes: Any) -> dict[str, Any]:
    """The fields of LLaDA-8B's `config.json`, at a small size."""
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
            "AutoModel": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 32,
        "embedding_dropout": 0.0,
        "embedding_size": 261,
        "eos_token_id": 257,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 260,
        "max_sequence_length": 128,
        "mlp_hidden_size": 48,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 3,
        "pad_token_id": 257,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "transformers_version": "4.46.3",
        "use_cache": False,
        "vocab_size": 261,
        "weight_tying": False,
        **changes,
    }


def llada_weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random weights under LLaDA's names, of the sizes that ``config`` gives them."""
    generator = torch.Generator().manual_seed(0)
    width, rows = config["d_model"], config["embedding_size"]
    inner = config["mlp_hidden_size"] or config["mlp_ratio"] * width
    grouped = (config["n_kv_heads"] or 1) * width // config["n_heads"]
    block = {
        "attn_norm": (width,),
        "ff_norm": (width,),
        "q_proj": (width, width),
        "k_proj": (grouped, width),
        "v_proj": (grouped, width),
        "attn_out": (width, width),
        "ff_proj": (inner, width),
        "up_proj": (inner, width),
        "ff_out": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"wte": (rows, width), "ln_f": (width,)}
    if not config["weight_tying"]:
        shapes["ff_out"] = (rows, width)
    for layer in range(config["n_layers"]):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return {
        f"model.transformer.{name}.weight": torch.randn(shape, generator=generator) * 0.2 + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def write_checkpoint(directory: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Write the checkpoint; returns its configuration and its weights."""
    config = llada_config(**changes)
    weights = llada_weights(config)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    build_tokenizer(extra_tokens=("<|mdm_mask|>",)).save_pretrained(directory)
    return config, weights
