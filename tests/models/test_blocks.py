"""Attention in blocks: the mask by the formula in every implementation, and what a block diffusion model remembers of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError
from kinject.models import (
    attend_in_blocks,
    diffusion_settings,
    load_model,
    prove_bidirectional,
    save_model,
    to_diffusion,
)
from kinject.models.diffusion import DiffusionSettings, Tokens, attended, block_mask
from tests.conftest import build_model, build_tokenizer
from tests.models.architectures import random_model

MASK, LENGTH, BLOCK = 260, 16, 4


def noisy_and_clean(length: int) -> Tokens:
    positions = torch.arange(length)[None]
    twice = torch.cat([positions, positions], 1)
    return Tokens(twice, torch.arange(2 * length)[None] >= length, torch.ones_like(twice, dtype=torch.bool))


@pytest.mark.parametrize("causal", [False, True])
def test_who_sees_whom_is_the_published_formula(causal: bool) -> None:
    tokens = noisy_and_clean(6)
    found = attended(tokens, tokens, 2, "causal" if causal else "block")[0]
    for q in range(12):
        for k in range(12):
            (clean_q, p_q), (clean_k, p_k) = divmod(q, 6), divmod(k, 6)
            same = clean_q == clean_k and p_q // 2 == p_k // 2
            if causal and clean_q:
                same = same and p_k <= p_q
            assert found[q, k].item() == (same or (clean_k == 1 and p_q // 2 > p_k // 2)), (q, k)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "gpt2"])
def test_a_noisy_block_of_both_copies_is_that_block_after_its_prefix_alone(name: str, attention: str) -> None:
    model = random_model(name, build_tokenizer()).eval()
    model.set_attn_implementation(attention)
    to_diffusion(model, MASK, shifted_logits=False, block_length=BLOCK)
    torch.manual_seed(1)
    clean = torch.randint(0, 256, (1, LENGTH))
    noisy = clean.where(torch.rand(1, LENGTH) < 0.5, MASK)
    tokens = noisy_and_clean(LENGTH)
    with torch.no_grad():
        both = model(
            input_ids=torch.cat([noisy, clean], 1),
            attention_mask=block_mask(model, tokens, BLOCK),
            position_ids=tokens.positions,
            use_cache=False,
        ).logits[0, :LENGTH]
        for start in range(0, LENGTH, BLOCK):
            end = start + BLOCK
            row = torch.cat([clean[:, :start], noisy[:, start:end]], 1)
            unseen = torch.tensor([[k // BLOCK > q // BLOCK for k in range(end)] for q in range(end)])
            mask = torch.zeros(1, 1, end, end).masked_fill(unseen, -torch.inf)
            alone = model(input_ids=row, attention_mask=mask, position_ids=torch.arange(end)[None], use_cache=False)
            torch.testing.assert_close(both[start:end], alone.logits[0, start:], atol=1e-6, rtol=0)


def test_padding_changes_nothing_and_is_a_number() -> None:
    model = to_diffusion(build_model(build_tokenizer()).eval(), MASK, block_length=BLOCK)
    tokens = noisy_and_clean(LENGTH)
    ids = torch.randint(0, 256, (1, 2 * LENGTH))
    padding = torch.full((1, 5), 7)
    hidden = torch.zeros_like(padding, dtype=torch.bool)
    padded = Tokens(
        torch.cat([tokens.positions, padding], 1),
        torch.cat([tokens.clean, ~hidden], 1),
        torch.cat([tokens.visible, hidden], 1),
    )
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            plain, longer = (
                model(
                    input_ids=row,
                    attention_mask=block_mask(model, each, BLOCK),
                    position_ids=each.positions,
                    use_cache=False,
                ).logits
                for row, each in ((ids, tokens), (torch.cat([ids, padding], 1), padded))
            )
        assert longer.isfinite().all()
        torch.testing.assert_close(longer[:, : 2 * LENGTH], plain, atol=1e-6, rtol=0)


def test_the_mask_has_the_precision_of_the_model_and_no_infinities_in_autocast() -> None:
    model = to_diffusion(build_model(build_tokenizer()).eval(), MASK, block_length=BLOCK)
    tokens = noisy_and_clean(LENGTH)
    nothing = Tokens(tokens.positions, tokens.clean, torch.zeros_like(tokens.visible))
    ids = torch.randint(0, 256, (1, 2 * LENGTH))
    for each in (tokens, nothing):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            mask = block_mask(model, each, BLOCK)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=each.positions, use_cache=False).logits
        assert logits.isfinite().all()
    assert block_mask(model.bfloat16(), tokens, BLOCK).dtype == torch.bfloat16


def test_conversion_is_remembered_by_the_model_and_by_an_adapter(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    save_model(build_model(tokenizer), tmp_path / "ar", tokenizer=tokenizer)
    loaded = load_model(str(tmp_path / "ar"), to_diffusion="block", mask_token="<reserved_0>", shifted_logits=False)
    settings = DiffusionSettings(MASK, False, 4, "block")
    assert diffusion_settings(loaded.model) == settings
    whole: Any = loaded.model
    save_model(whole, tmp_path / "block", tokenizer=tokenizer)
    assert json.loads((tmp_path / "block" / "config.json").read_text())["block_length"] == 4
    assert diffusion_settings(load_model(str(tmp_path / "block")).model) == settings
    assert diffusion_settings(load_model(str(tmp_path / "block"), block_length=8).model).block_length == 8
    causal = load_model(str(tmp_path / "block"), to_diffusion="block", clean_attention="causal").model
    assert diffusion_settings(causal) == DiffusionSettings(MASK, False, 4, "causal")


def test_any_masked_diffusion_model_becomes_a_block_model_only_when_told(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    save_model(to_diffusion(build_model(tokenizer), MASK), tmp_path / "full", tokenizer=tokenizer)
    path = str(tmp_path / "full")
    assert diffusion_settings(load_model(path, to_diffusion=True, block_length=8).model).block_length is None
    assert diffusion_settings(load_model(path, to_diffusion="block", block_length=8).model).block_length == 8
    with pytest.raises(ConfigurationError, match="clean_attention is 'causal', and would have no effect"):
        load_model(path, clean_attention="causal")


def test_what_cannot_attend_in_blocks_is_refused_by_name(tiny_model: Any) -> None:
    to_diffusion(tiny_model, MASK)
    for options, message in (
        ({"block_length": -1}, "block_length is -1"),
        ({"clean_attention": "forward"}, "clean_attention is 'forward'; expected one of block, causal"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            attend_in_blocks(tiny_model, **options)  # type: ignore[arg-type]
    tiny_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigurationError, match="attn_implementation is flash_attention_2, which takes no mask"):
        attend_in_blocks(tiny_model, 4)
    assert diffusion_settings(tiny_model).block_length is None


def test_a_model_that_ignores_the_mask_is_refused(tiny_model: Any) -> None:
    to_diffusion(tiny_model, MASK)
    plain = tiny_model.model.forward
    tiny_model.model.forward = lambda attention_mask=None, **given: plain(**given)
    prove_bidirectional(tiny_model)
    with pytest.raises(ConfigurationError, match="does not attend in blocks"):
        attend_in_blocks(tiny_model, 4)
