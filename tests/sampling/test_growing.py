"""Answers whose masks expand and vanish while they are written, as DreamOn's do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from kinject.errors import ConfigurationError
from kinject.models import attend_in_blocks, diffusion_settings, load_model, save_model
from kinject.models.adapters import write_diffusion_settings
from kinject.sampling import SamplingConfig, infill, sample
from tests.conftest import build_tokenizer
from tests.models.architectures import random_model
from tests.sampling.models import MASK, build_diffusion, random_prompts

EXPAND, DELETE = 19, 15


def build(shifted: bool = True) -> Any:
    """A model that expands and deletes often."""
    model = build_diffusion()
    with torch.no_grad():
        model.lm_head.weight[[EXPAND, DELETE]] *= 1.6
    model.config.shifted_logits = shifted
    model.config.expand_token_id, model.config.delete_token_id = EXPAND, DELETE
    return model


def plain(
    model: Any, row: Sequence[int], longest: int, start: int = 0, ends: Sequence[int] = ()
) -> tuple[list[int], int, set[int]]:
    """One row, the most probable token a step; with the steps it took, and what was done to masks."""
    ids, steps, seen, expansions = list(row), 0, set(), 0
    limit = len(ids) - ids.count(MASK) + longest
    while MASK in ids:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        if model.config.shifted_logits:
            logits = torch.cat([logits[:1], logits[:-1]])
        logits[:, MASK] = -torch.inf
        if len(ids) >= limit or expansions == 2 * longest:
            logits[:, EXPAND] = -torch.inf
        best, chosen = logits.softmax(-1).max(-1)
        place = max((at for at, token in enumerate(ids) if token == MASK), key=lambda at: best[at].item())
        token = int(chosen[place])
        seen.add(token)
        expansions += token == EXPAND
        ids[place : place + 1] = {EXPAND: [MASK, MASK], DELETE: []}.get(token, [token])
        steps += 1
        for at, written in enumerate(ids[start:], start):
            if written == MASK:
                break
            if written in ends:
                return ids[: at + 1], steps, seen
    return ids, steps, seen


@pytest.mark.parametrize("shifted", [False, True])
def test_gaps_grow_and_shrink_as_in_a_plain_loop(shifted: bool) -> None:
    model, texts = build(shifted), random_prompts(12, shortest=4, longest=12)
    rows = [[*text[:2], *[MASK] * (1 + number % 5), *text[2:]] for number, text in enumerate(texts)]
    expected = [plain(model, row, max(6, row.count(MASK))) for row in rows]
    config = SamplingConfig(answer_length=6)
    found = infill(model, rows, config, batch_size=12, history=True)
    assert found.ids == [ids for ids, *_ in expected] and found.nfe == [steps for _, steps, _ in expected]
    assert found.ids == [infill(model, [row], config).ids[0] for row in rows]
    assert {EXPAND, DELETE} <= set.union(*(seen for *_, seen in expected))
    lengths = [len(ids) - len(row) for ids, row in zip(found.ids, rows, strict=True)]
    assert min(lengths) < 0 < max(lengths)
    for ids, text, steps in zip(found.ids, texts, found.history, strict=True):
        assert ids[:2] == text[:2] and ids[len(ids) - len(text[2:]) :] == text[2:]
        assert not {MASK, EXPAND, DELETE} & set(ids[2 : len(ids) - len(text[2:])])
        assert steps[-1].ids == ids


def test_answers_begin_short_and_end_at_their_end() -> None:
    model, prompts = build(), random_prompts(10, longest=9, seed=2)
    config = SamplingConfig(answer_length=12, block_length=4)
    begun = [[*prompt, *[MASK] * 4] for prompt in prompts]
    whole = sample(model, prompts, config).ids
    assert whole == [plain(model, row, 12)[0][len(prompt) :] for row, prompt in zip(begun, prompts, strict=True)]
    assert len({len(ids) for ids in whole}) > 2 and max(map(len, whole)) <= 12
    ends = [next(ids for ids in whole if len(ids) > 2)[1]]
    expected = [plain(model, row, 12, len(prompt), ends) for row, prompt in zip(begun, prompts, strict=True)]
    found = sample(model, prompts, config, end_ids=ends)
    assert found.nfe == [steps for _, steps, _ in expected] and found.ids != whole
    for ids, (row, *_), prompt in zip(found.ids, expected, prompts, strict=True):
        assert ids == row[len(prompt) :]
    sure = SamplingConfig(answer_length=12, block_length=4, threshold=0.3)
    together = sample(model, prompts, sure)
    assert together.ids == [sample(model, [prompt], sure).ids[0] for prompt in prompts]
    assert together.ids != whole and sum(together.nfe) < sum(sample(model, prompts, config).nfe)
    noisy = SamplingConfig(answer_length=12, block_length=4, temperature=1.0)
    assert sample(model, prompts, noisy).ids == [sample(model, [prompt], noisy).ids[0] for prompt in prompts]


def test_dreamon_is_a_dream_whose_generation_config_names_the_tokens(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    save_model(random_model("qwen2", tokenizer), tmp_path / "theirs", tokenizer=tokenizer)
    config = tmp_path / "theirs" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "Dream", "mask_token_id": 260}))
    generation = {"mask_token_id": 260, "expand_token_id": 258, "delete_token_id": 259}
    (tmp_path / "theirs" / "generation_config.json").write_text(json.dumps(generation))
    loaded = load_model(str(tmp_path / "theirs"))
    settings = diffusion_settings(loaded.model)
    assert (settings.expand_token_id, settings.delete_token_id, settings.shifted_logits) == (258, 259, True)
    save_model(loaded.model, tmp_path / "ours", tokenizer=tokenizer)  # type: ignore[arg-type]
    assert diffusion_settings(load_model(str(tmp_path / "ours")).model) == settings
    adapted: Any = get_peft_model(loaded.model, LoraConfig(target_modules=["q_proj"]))  # type: ignore[arg-type]
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "theirs")
    adapted.save_pretrained(tmp_path / "adapter")
    write_diffusion_settings(tmp_path / "adapter", adapted)
    assert diffusion_settings(load_model(str(tmp_path / "adapter")).model) == settings


def test_what_presumes_a_fixed_length_is_refused() -> None:
    model = build()
    for options in ({"exact": True}, {"steps": 4}, {"edit_threshold": 0.9}):
        with pytest.raises(ConfigurationError, match=f"{next(iter(options))} is .*grow and shrink"):
            sample(model, [[5]], SamplingConfig(answer_length=4, **options))  # type: ignore[arg-type]
    attend_in_blocks(model, 4)
    with pytest.raises(ConfigurationError, match="block_length is 4, and the answers of this model grow and shrink"):
        sample(model, [[5]])
