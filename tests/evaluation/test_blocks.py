"""Asking block diffusion models: in blocks of one token an AR model, and a likelihood that adds up over blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinject.cli import main
from kinject.data import load_knowledge
from kinject.evaluation.asking import answer_log_likelihood, answer_questions
from kinject.models import attend_in_blocks, load_model, save_model
from kinject.models.diffusion import to_diffusion
from tests.conftest import build_model, build_tokenizer
from tests.evaluation.parts import MASK


def test_in_blocks_of_one_token_an_ar_model_answers_as_it_did() -> None:
    asked = [each.question for each in load_knowledge("fictional:nano_population", size=12).questions]
    ar, block = load_model("nano-ar"), load_model("nano-ar", to_diffusion="block", block_length=1)
    said = answer_questions(ar.model, ar.tokenizer, asked, max_new_tokens=12)
    assert said == answer_questions(block.model, block.tokenizer, asked, max_new_tokens=12)
    assert len(set(said)) > 8


@pytest.mark.parametrize("shifted", [False, True])
def test_the_likelihood_of_single_tokens_is_their_product(shifted: bool) -> None:
    model = to_diffusion(build_model(build_tokenizer()), MASK, shifted_logits=shifted, block_length=1).eval()
    prompt, answer = [5, 6, 7], [8, 9, 10, 11]
    (found,) = answer_log_likelihood(model, [prompt], [answer], samples=4)
    expected = 0.0
    for place in range(3, 7):
        row = torch.tensor([([*prompt, *answer])[:place] + [MASK]])
        mask = torch.zeros(1, 1, place + 1, place + 1).masked_fill(
            torch.ones(place + 1, place + 1).triu(1).bool(), -torch.inf
        )
        with torch.no_grad():
            logits = model(input_ids=row, attention_mask=mask).logits[0, place - int(shifted)]
        expected += float(logits.log_softmax(-1)[answer[place - 3]])
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_comes_later_than_a_block_does_not_change_its_likelihood() -> None:
    model = to_diffusion(build_model(build_tokenizer()), MASK, shifted_logits=False, block_length=4).eval()
    prompt = [5, 6]
    first, both, other = answer_log_likelihood(model, [prompt] * 3, [[7, 8], [7, 8, 9, 10], [7, 8, 9, 11]], samples=16)
    rest, another = answer_log_likelihood(model, [[*prompt, 7, 8]] * 2, [[9, 10], [9, 11]], samples=16)
    assert both == pytest.approx(first + rest, rel=1e-6) and other == pytest.approx(first + another, rel=1e-6)
    attend_in_blocks(model, 8)
    (whole,) = answer_log_likelihood(model, [prompt], [[7, 8, 9, 10]], samples=16)
    assert abs(whole - both) > 1e-4


def test_eval_refuses_other_blocks_than_the_models_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    loaded = load_model("nano-ar", to_diffusion="block")
    save_model(loaded.model, tmp_path / "block", tokenizer=loaded.tokenizer)  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        main(
            ["eval", str(tmp_path / "block"), "--documents", "fictional:nano", "--facts", "0-1", "--block_length", "8"]
        )
    assert "block_length is 8, and the model answers in blocks of 4" in capsys.readouterr().err
