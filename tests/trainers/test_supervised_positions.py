"""The head sees the supervised positions only, and what it says of each is that of the whole model."""

from __future__ import annotations

import pytest
import torch
import trl.trainer.utils

from kinject.trainers.supervised_positions import SupervisedPositions, scores_of, token_scores
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import needs_token_losses

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
ROWS, POSITIONS, TARGETS = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 3]), torch.tensor([40, 41, 42])


def test_scores_by_hand() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], requires_grad=True)
    found = scores_of(probabilities.log(), torch.tensor([1, 1]))
    assert found.log_probs.exp().tolist() == pytest.approx([0.25, 0.75]) and found.log_probs.requires_grad
    assert found.entropy.tolist() == pytest.approx([1.5 * torch.log(torch.tensor(2.0)).item(), 0.73562], abs=1e-5)
    assert found.correct.tolist() == [False, True] and not found.entropy.requires_grad
    elsewhere = scores_of(torch.empty(2, 3, device="meta"), torch.tensor([1, 1]))  # where the head is, not the labels
    assert {each.device.type for each in (elsewhere.log_probs, elsewhere.correct)} == {"meta"}


def test_only_the_positions_inside_are_gathered_and_all_after() -> None:
    model = build_model(build_tokenizer()).eval()
    supervised = SupervisedPositions(model)
    whole = model(input_ids=IDS).logits
    with supervised.at(ROWS, POSITIONS):
        some = model(input_ids=IDS).logits
    assert torch.allclose(some, whole[ROWS, POSITIONS][None], atol=1e-6)
    assert torch.equal(model(input_ids=IDS).logits, whole)
    with pytest.raises(ZeroDivisionError), supervised.at(ROWS, POSITIONS):
        _ = 1 / 0
    assert torch.equal(model(input_ids=IDS).logits, whole) and supervised.log_probs is None


@pytest.mark.parametrize("fused", [pytest.param(True, marks=needs_token_losses), False])
def test_tokens_are_scored_by_trls_head_as_by_the_logits(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(build_tokenizer()).eval()
    logits = model(input_ids=IDS).logits[ROWS, POSITIONS]
    targets = torch.tensor([40, 41, int(logits[2].argmax())])
    expected = scores_of(logits.float().log_softmax(-1), targets)
    assert expected.correct.tolist() == [False, False, True]
    if fused:
        trl.trainer.utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    else:
        monkeypatch.delattr(trl.trainer.utils, "add_fused_lm_head", raising=False)
    supervised = SupervisedPositions(model)
    with supervised.at(ROWS, POSITIONS):
        found = token_scores(model, {"input_ids": IDS}, targets)
    for name in ("log_probs", "entropy", "correct"):
        values = getattr(found, name)
        assert values.shape == (3,) and torch.allclose(values.float(), getattr(expected, name).float(), atol=1e-4)
    assert found.log_probs.requires_grad and not found.entropy.requires_grad
    if fused:
        assert supervised.log_probs is not None and not supervised.log_probs.requires_grad
        assert torch.equal(supervised.log_probs, found.log_probs)
