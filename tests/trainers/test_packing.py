"""Packed batches: the same documents, loss and gradients as padded ones, and refused where documents would leak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError
from kinject.trainers.collator import check_isolation, document_of_each, packed
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import CHAT_ROWS, QUESTION_ROWS, needs_token_losses

SETTINGS: list[dict[str, Any]] = [
    {},
    {"mask_unit": "span", "wordings": "rotating"},
    {"loss_on": "masked", "mask_ratio": "fixed(0.6)"},
    {"corruption": "random"},
    {"plain": True},
    {"plain": True, "frame": "raw"},
    {"plain": True, "objective": "reverse"},
    {"rows": QUESTION_ROWS, "loss_on": "masked", "mask_ratio": "fixed(0.7)"},
    {"rows": CHAT_ROWS, "plain": True},
]


def _gradients(trainer: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    loss.backward()
    return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])


# On the CPU there is no FlashAttention, and flex attention has no backward pass. What stands in is the library's mask of
# the whole row, made from the same position ids.
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_packed_loss_and_gradients_equal_the_padded_ones(
    make_trainer: Callable[..., Any], settings: dict[str, Any], attention: str
) -> None:
    trainer = make_trainer(**settings)
    trainer.model.set_attn_implementation(attention)
    rows = list(trainer.train_dataset)
    padded_batch = trainer.data_collator(rows)
    trainer.data_collator.packing = "positions"
    packed_batch = trainer.data_collator(rows)
    assert packed_batch["input_ids"].shape == (1, padded_batch["attention_mask"].sum())
    loss, gradients = _gradients(trainer, packed_batch)
    expected_loss, expected_gradients = _gradients(trainer, padded_batch)
    assert loss.item() == pytest.approx(expected_loss.item(), abs=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-6, rtol=1e-4)
    items = [trainer._get_num_items_in_batch([batch], torch.device("cpu")) for batch in (padded_batch, packed_batch)]
    assert items[0] == items[1]


@pytest.mark.parametrize("option", ["packing", "padding_free"])
def test_a_packed_run_ends_where_a_padded_one_does(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    # As above, the mask of the whole row stands in for attention that a GPU would have.
    monkeypatch.setattr("kinject.trainers.document_trainer.check_isolation", lambda *_: False)
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    runs = [make_trainer(**{option: packs}, learning_rate=1e-3, **settings) for packs in (True, False)]
    for trainer in runs:
        trainer.train()
    packed_run, padded_run = runs
    assert "position_ids" in next(iter(packed_run.get_train_dataloader()))
    assert packed_run.state.num_input_tokens_seen == padded_run.state.num_input_tokens_seen > 0
    for name in ("loss", "num_tokens", "mask_ratio", "mean_token_accuracy"):
        logged = [[entry[name] for entry in run.state.log_history if name in entry] for run in runs]
        assert logged[0] == pytest.approx(logged[1], abs=1e-4) and len(logged[0]) == 4
    for one, two in zip(packed_run.model.parameters(), padded_run.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-4, rtol=0)


def test_boundaries_mask_as_positions_do(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer()
    trainer.data_collator.packing = "boundaries"
    batch = trainer.data_collator(list(trainer.train_dataset))
    boundaries = batch["cu_seq_lens_q"]
    assert boundaries.dtype == torch.int32 and torch.equal(boundaries, batch["cu_seq_lens_k"])
    assert batch["max_length_q"] == batch["max_length_k"] == int(boundaries.diff().max())
    total = batch["input_ids"].shape[1]
    # What FlashAttention computes: causal attention inside each pair of boundaries.
    document = torch.bucketize(torch.arange(total), boundaries[1:], right=True)
    assert torch.equal(document, document_of_each(batch["position_ids"]))
    visible = (document[:, None] == document[None]) & torch.ones(total, total).tril().bool()
    model = trainer.model.eval()
    masked = model(input_ids=batch["input_ids"], attention_mask=visible[None, None], position_ids=batch["position_ids"])
    alone = [
        model(input_ids=batch["input_ids"][:, start:end]).logits[0]
        for start, end in zip(boundaries[:-1], boundaries[1:], strict=True)
    ]
    torch.testing.assert_close(masked.logits[0], torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_flex_attention_keeps_documents_apart() -> None:
    model = build_model(build_tokenizer()).eval()
    model.set_attn_implementation("flex_attention")
    documents = [torch.randint(200, (length,)).tolist() for length in (5, 17, 9)]
    batch = packed([(ids, ids) for ids in documents], with_boundaries=False)
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
        model.set_attn_implementation("sdpa")
        alone = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in documents])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_packed_row_is_filled_up_with_a_document_that_is_not_scored() -> None:
    batch = packed([([5, 6, 7], [5, 6, 7]), ([8, 9], [-100, 9])], with_boundaries=True, pad=(0, 4))
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9, -100, -100, -100]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 8]


@needs_token_losses
def test_ratios_are_logged_for_their_own_documents(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer()
    rows = list(trainer.train_dataset)
    logged = []
    for packing in ("none", "positions"):
        trainer.data_collator.packing = packing
        trainer._metrics["train"].clear()
        trainer.compute_loss(trainer.model.train(), trainer.data_collator(rows))
        trainer._tally.settle()
        logged.append({name: pytest.approx(values, abs=1e-5) for name, values in trainer._metrics["train"].items()})
    assert {"loss_ratio_q1", "loss_ratio_q4"} <= set(logged[0])
    ours = {name: values.expected for name, values in logged[1].items() if name != "num_tokens"}
    assert ours == {name: values for name, values in logged[0].items() if name != "num_tokens"}


def test_evaluation_batches_are_padded(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer()
    trainer.data_collator.packing = "positions"
    batch = trainer.data_collator([{**row, "fixed_masks": True} for row in trainer.train_dataset])
    assert batch["input_ids"].shape[0] == len(trainer.train_dataset) and "position_ids" not in batch


@pytest.mark.parametrize("option", ["packing", "padding_free"])
@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("sdpa", "with sdpa attention"),
        ("eager", "with eager attention"),
        ("flex_attention", "no backward pass on the CPU"),
    ],
)
def test_packing_is_refused_without_isolation(
    make_trainer: Callable[..., Any], option: str, attention: str, message: str
) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.set_attn_implementation(attention)
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(trainer={"model": model, "processing_class": tokenizer}, **{option: True})


def test_packing_is_refused_for_diffusion_models_whose_documents_do_leak(
    make_diffusion_trainer: Callable[..., Any],
) -> None:
    with pytest.raises(ConfigurationError, match="masked diffusion models"):
        make_diffusion_trainer(packing=True)
    model = make_diffusion_trainer().model.eval()
    batch = packed([([5, 6, 7], [5, 6, 7]), ([8, 9], [8, 9])], with_boundaries=False)
    first = [
        model(input_ids=ids, position_ids=batch["position_ids"]).logits[0, :3]
        for ids in (batch["input_ids"], torch.tensor([[5, 6, 7, 40, 41]]))
    ]
    assert not torch.allclose(first[0], first[1], atol=1e-4)


def test_packing_needs_no_more_than_flash_attention_or_flex_attention_on_an_accelerator() -> None:
    model = build_model(build_tokenizer())
    for attention, device, with_boundaries in (
        ("flash_attention_2", "cuda", True),
        ("kernels-community/flash-attn3", "cuda", True),
        ("flex_attention", "cuda", False),
    ):
        model.config._attn_implementation_internal = attention
        assert check_isolation(model, torch.device(device)) is with_boundaries
    model._is_stateful = True
    with pytest.raises(ConfigurationError, match="carry a state"):
        check_isolation(model, torch.device("cuda"))
