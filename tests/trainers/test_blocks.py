"""Block diffusion: the loss against a plain computation for every option, accumulated, resumed, with adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError
from kinject.models import DiffusionSettings, diffusion_settings, load_model, save_model, to_diffusion
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import DOCUMENTS, QUESTION_ROWS

Make = Callable[..., Any]
BLOCK = 8


@pytest.fixture
def make(make_diffusion_trainer: Make) -> Make:
    """A trainer of a tiny block diffusion model; ``blocks`` are options of `to_diffusion`."""

    def made(shifted: bool = False, clean: str = "block", attention: str = "sdpa", **settings: Any) -> Any:
        tokenizer = build_tokenizer()
        mask = int(tokenizer.convert_tokens_to_ids("<reserved_0>"))  # type: ignore[arg-type]
        model = build_model(tokenizer)
        model.set_attn_implementation(attention)
        to_diffusion(model, mask, shifted_logits=shifted, block_length=BLOCK, clean_attention=clean)
        options = {"model": model, **settings.pop("trainer", {})}
        return make_diffusion_trainer(trainer=options, **settings)

    return made


def clean_rows(trainer: Any) -> list[tuple[list[int], int]]:
    """Each row whole, with the place of the first token that may be hidden; twice where it is shown twice."""
    end, begin = trainer.processing_class.eos_token_id, trainer.processing_class.bos_token_id
    rows = []
    for row in trainer.train_dataset:
        frames = row["frames"]
        prompt = [*frames[0]["before"], *frames[0]["between"]] if frames else [begin]
        after = frames[0]["after"] if frames else [end]
        ids = [*prompt, *row["document_ids"], *after]
        rows += [([*ids, *[end] * (-len(ids) % BLOCK)], len(prompt))] * (2 if trainer.args.complementary else 1)
    return rows


def log_probs(model: Any, prefix: list[int], block: list[int], causal: bool) -> torch.Tensor:
    """What ``model`` says at every token of ``block`` after ``prefix``, by a mask that is written out pair by pair."""
    start, length = len(prefix), len(prefix) + len(block)
    seen = [
        [(k <= q if causal and q < start else k // BLOCK <= q // BLOCK) for k in range(length)] for q in range(length)
    ]
    mask = torch.zeros(1, 1, length, length).masked_fill(~torch.tensor(seen), -torch.inf)
    logits = model(
        input_ids=torch.tensor([prefix + block]),
        attention_mask=mask,
        position_ids=torch.arange(length)[None],
        use_cache=False,
    ).logits
    return logits[0, start:].log_softmax(-1)


def reference(trainer: Any, batch: dict[str, torch.Tensor], model: Any) -> torch.Tensor:
    """The loss by its definition: one block at a time, after the clean text before it."""
    args, settings = trainer.args, diffusion_settings(model)
    causal = settings.clean_attention == "causal"
    weighted = not args.complementary and args.weighting != "none"
    sums, counts = [], []
    for index, (clean, first) in enumerate(clean_rows(trainer)):
        columns = (batch["labels"][index] != -100).nonzero()[:, 0].tolist()
        hidden = {
            int(batch["position_ids"][index, column]): float(batch["ratios"][index, column]) for column in columns
        }
        assert all(place >= first for place in hidden)
        noisy = [settings.mask_token_id if place in hidden else token for place, token in enumerate(clean)]
        said: dict[int, torch.Tensor] = {}
        for start in range(0, len(clean), BLOCK):
            found = log_probs(model, clean[:start], noisy[start : start + BLOCK], causal)
            said |= {start + offset: found[offset] for offset in range(BLOCK)}
        total = torch.zeros(())
        for place, p in hidden.items():
            read = max(place - 1, 0) if settings.shifted_logits else place
            total = total - said[read][clean[place]] / (p if weighted else 1.0)
        maskable = len(clean) - first
        count = maskable / 2 if args.complementary else maskable if weighted else len(hidden)
        if causal:
            following = (
                model(input_ids=torch.tensor([clean]), attention_mask=causal_mask(len(clean))).logits[0].log_softmax(-1)
            )
            mean = -sum(following[place - 1, clean[place]] for place in range(max(first, 1), len(clean))) / maskable
            total = 0.3 * total + count * mean
        sums.append(total)
        counts.append(count)
    if args.normalize == "maskable":
        return torch.stack(sums).sum() / sum(counts)
    return torch.stack([each / count for each, count in zip(sums, counts, strict=True)]).mean()


def causal_mask(length: int) -> torch.Tensor:
    return torch.zeros(1, 1, length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention": "eager", "mask_ratio": "fixed(0.15)"},
        {"noise_per": "block", "normalize": "sequence"},
        {"noise_per": "block", "mask_unit": "word", "weighting": "none"},
        {"weighting": "none", "normalize": "sequence"},
        {"complementary": True},
        {"complementary": True, "noise_per": "block", "normalize": "sequence"},
        {"clean": "causal"},
        {"clean": "causal", "normalize": "paper", "attention": "eager"},
        {"clean": "causal", "complementary": True, "noise_per": "block"},
        {"clean": "causal", "weighting": "none"},
        {"rows": QUESTION_ROWS, "mask_unit": "mixed"},
    ],
    ids=str,
)
def test_loss_and_gradient_equal_the_plain_computation(make: Make, shifted: bool, settings: dict[str, Any]) -> None:
    trainer = make(shifted=shifted, **settings)
    batch = trainer.data_collator(list(trainer.train_dataset))
    expected = reference(trainer, batch, trainer.model)
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and loss.item() > 0
    weight = trainer.model.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(
        torch.autograd.grad(loss, weight)[0], torch.autograd.grad(expected, weight)[0], atol=1e-6, rtol=1e-4
    )


def test_only_noisy_blocks_with_a_loss_and_the_clean_ones_before_them_are_computed(make: Make) -> None:
    trainer = make(mask_ratio="fixed(0.1)")
    batch = trainer.data_collator(list(trainer.train_dataset))
    whole = sum(2 * len(clean) for clean, _ in clean_rows(trainer))
    assert int(batch["attention_mask"].sum()) < 0.8 * whole
    for labels, positions, clean, visible in zip(
        batch["labels"], batch["position_ids"], batch["clean"], batch["attention_mask"].bool(), strict=True
    ):
        noisy = positions[visible & ~clean] // BLOCK
        assert set((positions[labels != -100] // BLOCK).tolist()) == set(noisy.tolist())
        assert positions[visible & clean].tolist() == list(range(int(noisy.max()) * BLOCK))


def test_rows_are_filled_up_to_whole_blocks_with_ends_that_are_learned(make: Make) -> None:
    trainer = make(mask_ratio="fixed(1)")
    rows = list(trainer.train_dataset)
    batch = trainer.data_collator(rows)
    for index, (clean, first) in enumerate(clean_rows(trainer)):
        labels = batch["labels"][index]
        assert labels[labels != -100].tolist() == clean[first:] and len(clean) % BLOCK == 0
        alone = trainer.data_collator([rows[index]])
        assert alone["labels"][0][alone["labels"][0] != -100].tolist() == clean[first:]
    longest = max(len(clean) for clean, _ in clean_rows(trainer))
    filled = make(mask_ratio="fixed(1)", end_padding=True).data_collator(rows)
    assert {int((labels != -100).sum()) for labels in filled["labels"]} == {longest - 1}  # all but the first token


def test_complementary_rows_hide_every_token_once(make: Make) -> None:
    trainer = make(complementary=True, noise_per="block", mask_unit="mixed")
    batch = trainer.data_collator(list(trainer.train_dataset))
    for index, (clean, first) in enumerate(clean_rows(trainer)[::2]):
        places = [
            batch["position_ids"][2 * index + view][batch["labels"][2 * index + view] != -100].tolist()
            for view in (0, 1)
        ]
        assert sorted(places[0] + places[1]) == list(range(first, len(clean)))
        assert places[0] and places[1]


def test_every_block_has_its_own_noise_which_no_neighbor_changes(make: Make) -> None:
    trainer = make(noise_per="block")
    rows = list(trainer.train_dataset)
    batch = trainer.data_collator(rows)
    for index, row in enumerate(rows):
        alone = trainer.data_collator([row])
        width = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "ratios", "position_ids"):
            torch.testing.assert_close(batch[name][index, :width], alone[name][0], atol=0, rtol=0)
        blocks = alone["position_ids"][0] // BLOCK
        by_block = {
            int(block): set(alone["ratios"][0][(blocks == block) & (alone["labels"][0] != -100)].tolist())
            for block in blocks
        }
        found = [ratios for ratios in by_block.values() if ratios]
        assert all(len(ratios) == 1 for ratios in found) and len(set.union(*found)) == len(found) > 1
    trainer.data_collator.epoch = 1
    assert not torch.equal(trainer.data_collator(rows)["ratios"], batch["ratios"])


@pytest.mark.parametrize(
    "settings",
    [{"noise_per": "block"}, {"complementary": True}, {"weighting": "none"}, {"clean": "causal", "shifted": True}],
    ids=str,
)
def test_accumulated_small_batches_take_the_step_of_one_large_batch(make: Make, settings: dict[str, Any]) -> None:
    weights = []
    for size, steps in ((8, 1), (2, 4)):
        trainer = make(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            num_train_epochs=2,
            optim="sgd",
            max_grad_norm=0.0,
            **settings,
        )
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)


def test_the_loss_falls_and_a_resumed_run_ends_in_the_same_weights(make: Make, tmp_path: Path) -> None:
    settings = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 4, "noise_per": "block"}
    trainer = make(output_dir=str(tmp_path / "whole"), **settings)
    before = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] < before
    resumed = make(output_dir=str(tmp_path / "whole"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for ours, theirs in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_adapter_brings_its_blocks_to_the_autoregressive_base(make_diffusion_trainer: Make, tmp_path: Path) -> None:
    from peft import LoraConfig

    tokenizer = build_tokenizer()
    save_model(build_model(tokenizer), tmp_path / "ar", tokenizer=tokenizer)
    trainer = make_diffusion_trainer(
        trainer={
            "model": load_model(str(tmp_path / "ar")).model,
            "peft_config": LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        },
        to_diffusion="block",
        block_length=BLOCK,
        clean_attention="causal",
        mask_token="<reserved_0>",
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = load_model(str(tmp_path / "adapter"))
    assert diffusion_settings(loaded.model) == DiffusionSettings(260, True, BLOCK, "causal")
    batch = trainer.data_collator(list(trainer.train_dataset))
    again = make_diffusion_trainer(trainer={"model": loaded.model})
    assert again.compute_loss(again.model.eval(), dict(batch)).item() == pytest.approx(
        trainer.compute_loss(trainer.model.eval(), dict(batch)).item(), rel=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_per": "block"}, "noise_per is 'block', and the model has no blocks"),
        ({"clean_attention": "causal"}, "clean_attention is 'causal', and the model has no blocks"),
        ({"noise_per": "token"}, "noise_per"),
        ({"weighting": "p"}, "weighting"),
        ({"clean_attention": "none"}, "clean_attention"),
        ({"complementary": True, "weighting": "1/p"}, "weighting is '1/p' beside complementary"),
        ({"noise_per": "block", "mask_ratio_per": "batch"}, "noise_per is 'block' and mask_ratio_per is 'batch'"),
        ({"to_diffusion": "blocks"}, "to_diffusion is 'blocks'; expected true, false or block"),
        ({"block_length": 0}, "block_length is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    make_diffusion_trainer: Make, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_diffusion_trainer(**settings)


@pytest.mark.parametrize(("weighting", "complementary"), [("none", False), (None, True)])
def test_other_diffusion_models_learn_without_weights_too(
    make_diffusion_trainer: Make, weighting: str | None, complementary: bool
) -> None:
    trainer = make_diffusion_trainer(weighting=weighting, complementary=complementary)
    batch = trainer.data_collator(list(trainer.train_dataset))
    logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    assert len(batch["labels"]) == len(DOCUMENTS) * (2 if complementary else 1)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-5)
