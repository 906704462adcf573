"""The head sees the supervised positions only, and what it says of each is that of the whole model."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl.trainer.utils

from kinject import compat
from kinject.trainers import positions
from kinject.trainers.positions import SharedPrompts, SupervisedPositions, Tally, TokenScores, scores_of, token_scores
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


def test_the_backbone_gets_no_mask_where_only_padding_behind_the_targets_is_masked() -> None:
    model = build_model(build_tokenizer()).eval()
    supervised, seen = SupervisedPositions(model), []
    model.base_model.register_forward_hook(lambda module, args, given, output: seen.append(given), with_kwargs=True)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    plain = model(input_ids=IDS, attention_mask=mask).logits[ROWS, POSITIONS]
    for padded_behind in (False, True):
        with supervised.at(ROWS, POSITIONS, padded_behind):
            found = model(input_ids=IDS, attention_mask=mask).logits[0]
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)
    model(input_ids=IDS, attention_mask=mask)
    assert [given.get("attention_mask") is not None for given in seen] == [True, True, False, True]
    assert all(torch.equal(given["input_ids"], IDS) for given in seen)


# The prefix that all rows share.


SETTINGS: dict[str, Any] = {"is_deepspeed_enabled": False, "is_fsdp_enabled": False, "aux_loss_enabled": False}


def sharing(model: Any, compiled: bool = False, **settings: Any) -> SharedPrompts:
    trainer: Any = SimpleNamespace(args=SimpleNamespace(torch_compile=compiled), **{**SETTINGS, **settings})
    return SharedPrompts(trainer, model)


def batch_of(rows: int = 3, length: int = 12) -> dict[str, Any]:
    ids = torch.arange(length).repeat(rows, 1) + 5
    ids[:, 9:] += torch.arange(rows)[:, None] * 20
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_shared_prefix_is_replaced_by_its_keys_and_values(attention: str) -> None:
    model = build_model(build_tokenizer()).eval()
    model.set_attn_implementation(attention)
    batch, whole = batch_of(), batch_of()
    assert sharing(model).take_out(batch, 8) == 8  # as few as are worth it
    assert torch.equal(batch["input_ids"], whole["input_ids"][:, 8:])
    assert torch.equal(batch["attention_mask"], whole["attention_mask"])
    assert batch["past_key_values"].get_seq_length() == 8
    torch.testing.assert_close(model(**batch).logits, model(**whole).logits[:, 8:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"compiled": True}, {"is_deepspeed_enabled": True}, {"is_fsdp_enabled": True}, {"aux_loss_enabled": True}],
    ids=str,
)
def test_nothing_is_taken_out_where_it_was_not_tested(settings: dict[str, Any]) -> None:
    batch = batch_of()
    assert sharing(build_model(build_tokenizer()), **settings).take_out(batch, 9) == 0
    assert set(batch) == {"input_ids", "attention_mask"} and batch["input_ids"].shape == (3, 12)


def test_nothing_is_taken_out_of_models_that_do_not_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build_model(build_tokenizer()), batch_of()
    assert sharing(model).take_out(batch, 7) == 0  # shorter than is worth it
    for name in ("checkpoints_activations", "is_stateful"):
        with monkeypatch.context() as patched:
            patched.setattr(compat, name, lambda asked: asked is model)
            assert sharing(model).take_out(batch, 9) == 0
    with monkeypatch.context() as patched:
        patched.setattr(positions, "is_sharded", lambda asked: asked is model)
        assert sharing(model).take_out(batch, 9) == 0
        patched.setattr(positions, "is_sharded", lambda model: False)
        patched.setattr(compat, "attention_implementation", lambda model: "flex_attention")
        assert sharing(model).take_out(batch, 9) == 0
    tried = []
    monkeypatch.setattr(compat, "encode_beginning", lambda model, ids: tried.append(ids.tolist()))
    shared = sharing(model)
    assert [shared.take_out(batch, 9), shared.take_out(batch, 9)] == [0, 0]
    assert tried == [[list(range(5, 14))]]  # another kind of cache: tried once with the first row's prefix, never again
    assert set(batch) == {"input_ids", "attention_mask"}


# What is logged.


class Accelerator:
    """Two processes that have the same figures; counts how often they meet."""

    def __init__(self) -> None:
        self.met = 0

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        self.met += 1
        return tensor * 2


def tally() -> tuple[Tally, Any]:
    trainer = SimpleNamespace(
        accelerator=Accelerator(),
        _metrics={mode: defaultdict(list) for mode in ("train", "eval")},
        _total_train_tokens=0,
    )
    return Tally(trainer), trainer


def test_scores_are_means_over_the_supervised_tokens_of_all_processes() -> None:
    counted, trainer = tally()
    for entropy, correct in (([0.5, 1.0, 3.0], [True, False, True]), ([2.0], [False])):
        scores = TokenScores(torch.zeros(len(entropy)), torch.tensor(entropy), torch.tensor(correct))
        counted.add_scores("train", scores, torch.tensor(7))
    counted.add_scores("eval", TokenScores(*[torch.zeros(0)] * 3), torch.tensor(3))
    assert trainer.accelerator.met == 0
    counted.settle()
    assert dict(trainer._metrics["train"]) == {
        "entropy": pytest.approx([1.5, 2.0]),
        "mean_token_accuracy": pytest.approx([2 / 3, 0.0]),
        "num_tokens": [28],
    }
    assert dict(trainer._metrics["eval"]) == {"entropy": [0.0], "mean_token_accuracy": [0.0], "num_tokens": [28]}
    assert trainer.accelerator.met == 2  # once a mode, however many steps
    counted.settle()
    assert trainer.accelerator.met == 2 and len(trainer._metrics["train"]["entropy"]) == 2
    # A model in bf16 rounds its own figures, not the number of tokens.
    rounded = TokenScores(torch.zeros(1), torch.ones(1, dtype=torch.bfloat16), torch.tensor([True]))
    counted.add_scores("train", rounded, torch.tensor(1001))
    counted.settle()
    assert trainer._metrics["train"]["num_tokens"] == [28 + 2 * 1001]


def test_losses_are_logged_by_the_quarter_of_their_samples_ratio() -> None:
    counted, trainer = tally()
    ratios = torch.tensor([0.1, float("nan"), 0.5, 1.0])
    rows, log_probs = torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([-1.0, -2.0, -9.0, -4.0, -5.0, -7.0])
    counted.add_ratios("train", ratios, rows, log_probs)
    counted.settle()
    assert {name: values for name, values in trainer._metrics["train"].items()} == {
        "mask_ratio": pytest.approx([1.6 / 3]),
        "loss_ratio_q1": pytest.approx([1.5]),
        "loss_ratio_q3": pytest.approx([4.0]),
        "loss_ratio_q4": pytest.approx([6.0]),
    }
    counted, trainer = tally()
    of_tokens = torch.tensor([0.3, 0.3, 0.3, 0.8, 0.8, 0.1])
    counted.add_ratios("eval", ratios, rows, log_probs.requires_grad_(), of_tokens)
    counted.add_ratios("eval", ratios[:1], rows[:2], None)  # the head told no losses
    counted.add_ratios("eval", ratios[1:2], rows[:0], log_probs[:0])  # no sample has a ratio
    counted.settle()
    assert dict(trainer._metrics["eval"]) == {
        "mask_ratio": pytest.approx([1.6 / 3, 0.1]),
        "loss_ratio_q1": pytest.approx([7.0]),
        "loss_ratio_q2": pytest.approx([1.5]),
        "loss_ratio_q4": pytest.approx([4.5]),
    }
    assert not trainer._metrics["train"]


def test_figures_do_not_pile_up_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "_PENDING", 3)
    counted, trainer = tally()
    for step in range(1, 5):
        counted.add_ratios("train", torch.tensor([step / 8]), torch.zeros(0, dtype=torch.long), None)
        assert trainer.accelerator.met == (step >= 3)
    assert trainer._metrics["train"]["mask_ratio"] == pytest.approx([1 / 8, 2 / 8, 3 / 8])
