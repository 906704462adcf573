"""LLaDA's forward pass, written from the paper's description in plain PyTorch, against the model that `load_model` gives.

The reference reads the weights under LLaDA's own names; so names, sizes, rotary halves, gate and norms must all be right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict

from kinject.models import load_model
from tests.conftest import build_tokenizer
from tests.models.llada_checkpoint import llada_config, llada_weights, write_checkpoint

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped queries": {"n_kv_heads": 2},
    "one key for all queries": {"n_kv_heads": None, "multi_query_attention": True},
    "tied weights": {"weight_tying": True},
    "width of the MLP by ratio": {"mlp_hidden_size": None, "mlp_ratio": 3},
    "vocabulary padded in the embedding": {"embedding_size": 320},
    "other rotary base and epsilon": {"rope_theta": 10000.0, "rms_norm_eps": 1e-2},
}


def reference_logits(
    config: dict[str, Any], weights: dict[str, torch.Tensor], ids: torch.Tensor, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits (batch, length, vocabulary); positions count visible tokens only where ``visible`` is given."""
    width, heads = config["d_model"], config["n_heads"]
    size = width // heads
    prefix = "model.transformer"
    if visible is None:
        visible = torch.ones_like(ids)
    positions = (visible.cumsum(1) - 1).clamp(min=0)  # (batch, length)
    frequencies = config["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = positions[..., None].double() * frequencies  # (batch, length, size / 2)
    cosines, sines = angles.cos().float()[:, None], angles.sin().float()[:, None]  # (batch, 1, length, size / 2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()
        return x / scale * weights[f"{prefix}.{name}.weight"]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)

    x = weights[f"{prefix}.wte.weight"][ids]  # (batch, length, width)
    for layer in range(config["n_layers"]):
        block = f"blocks.{layer}"

        def project(x: torch.Tensor, name: str, block: str = block) -> torch.Tensor:
            return x @ weights[f"{prefix}.{block}.{name}.weight"].T

        normed = norm(x, f"{block}.attn_norm")
        queries, keys, values = (
            project(normed, name).unflatten(-1, (-1, size)).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj")
        )  # (batch, heads, length, size)
        shared = heads // keys.shape[1]
        keys, values = keys.repeat_interleave(shared, dim=1), values.repeat_interleave(shared, dim=1)
        scores = rotate(queries) @ rotate(keys).transpose(2, 3) / size**0.5
        scores = scores.masked_fill(visible[:, None, None, :] == 0, float("-inf"))
        attended = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
        x = x + project(attended, "attn_out")
        normed = norm(x, f"{block}.ff_norm")
        gate = project(normed, "ff_proj")
        x = x + project(gate * torch.sigmoid(gate) * project(normed, "up_proj"), "ff_out")
    head = "wte" if config["weight_tying"] else "ff_out"
    return norm(x, "ln_f") @ weights[f"{prefix}.{head}.weight"].T


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_logits_equal_the_reference(tmp_path: Path, changes: dict[str, Any], implementation: str) -> None:
    config, weights = write_checkpoint(tmp_path, **changes)
    model = load_model(str(tmp_path), attn_implementation=implementation).model
    ids = torch.randint(config["vocab_size"], (3, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    torch.testing.assert_close(logits, reference_logits(config, weights, ids), rtol=0, atol=1e-5)
    assert logits.std() > 0.1  # such that a wrong weight would show


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_invisible_as_in_the_reference(tmp_path: Path, implementation: str, side: str) -> None:
    config, weights = write_checkpoint(tmp_path, n_kv_heads=2)
    model = load_model(str(tmp_path), attn_implementation=implementation).model
    ids = torch.randint(config["vocab_size"], (3, 12), generator=torch.Generator().manual_seed(2))
    visible = torch.ones_like(ids)
    for row, padding in enumerate((0, 3, 7)):
        if padding:
            visible[row, slice(0, padding) if side == "left" else slice(-padding, None)] = 0
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=visible, position_ids=(visible.cumsum(1) - 1).clamp(min=0)).logits
    expected = reference_logits(config, weights, ids, visible)
    torch.testing.assert_close(logits[visible == 1], expected[visible == 1], rtol=0, atol=1e-5)
    alone = reference_logits(config, weights, ids[2:, visible[2] == 1])
    torch.testing.assert_close(logits[2:, visible[2] == 1], alone, rtol=0, atol=1e-5)


def test_shards_with_an_index_give_the_same_logits(tmp_path: Path) -> None:
    config, weights = llada_config(), llada_weights(llada_config())
    save_torch_state_dict(weights, tmp_path, max_shard_size="40KB", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    build_tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        logits = load_model(str(tmp_path)).model(input_ids=ids).logits
    torch.testing.assert_close(logits, reference_logits(config, weights, ids), rtol=0, atol=1e-5)
