"""What is hidden as a whole: words, and entities that are given or found by rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset

from kinject.models import load_model
from kinject.prompts.templates import DocumentTemplate, resolve_mask_token
from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer
from kinject.trainers.infilling import hidden_words

TEXT = "Ada Vance mapped the salt caves of Bo Quill, and left."


def _together(row: dict[str, Any], unit: str) -> list[str]:
    """The parts of `TEXT` that are hidden as a whole, those of more than one word."""
    document = DocumentTemplate(load_model("nano-ar").tokenizer).encode(TEXT)
    words = hidden_words(document, row, unit)
    assert words is not None and len(words) == len(document.ids)
    parts: dict[int, str] = {}
    for word, (start, end) in zip(words, document.offsets, strict=True):
        parts[word] = parts.get(word, "") + TEXT[start:end]
    return [part.strip() for part in parts.values() if " " in part.strip()]


def test_entities_are_found_by_rule_or_given() -> None:
    assert _together({}, "word") == []
    assert _together({}, "entity") == ["Ada Vance", "Bo Quill"]
    assert _together({"entities": ["salt caves"]}, "entity") == ["salt caves"]


@pytest.mark.parametrize("unit", ["token", "span", "mixed"])
def test_other_units_need_not_know(unit: str) -> None:
    assert hidden_words(DocumentTemplate(load_model("nano-ar").tokenizer).encode(TEXT), {}, unit) is None


def test_a_masked_copy_shows_all_of_an_entity_or_nothing(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(rows=[{"text": TEXT}], mask_unit="entity", mask_ratio="fixed(0.5)")
    tokenizer = trainer.processing_class
    mask = tokenizer.convert_ids_to_tokens(resolve_mask_token(tokenizer))
    seen = set()
    for epoch in range(30):
        trainer.data_collator.epoch = epoch
        batch = trainer.data_collator([trainer.train_dataset[0]])
        prompt = tokenizer.decode(batch["input_ids"][0][batch["labels"][0] == -100]).replace(mask, "")
        shown = tuple(word in prompt for word in ("Ada", "Vance", "Bo", "Quill"))
        assert shown[0] == shown[1] and shown[2] == shown[3]
        seen.add(shown)
    assert len(seen) == 4


def test_diffusion_hides_whole_entities_too(tmp_path: Any) -> None:
    loaded = load_model("nano-diffusion")
    args = DiffusionSFTConfig(str(tmp_path), mask_unit="entity", mask_ratio="fixed(0.5)", bf16=False, report_to="none")
    rows = Dataset.from_list([{"text": TEXT}])
    trainer = DiffusionSFTTrainer(loaded.model, args, train_dataset=rows, processing_class=loaded.tokenizer)
    seen = set()
    for epoch in range(20):
        trainer.data_collator.epoch = epoch
        shown = loaded.tokenizer.decode(trainer.data_collator([trainer.train_dataset[0]])["input_ids"][0])
        assert ("Ada" in shown) == ("Vance" in shown) and ("Bo" in shown) == ("Quill" in shown)
        seen.add(("Ada" in shown, "Bo" in shown))
    assert len(seen) == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_unit": "entity"},
        {"infill_share": 0.5, "infill_unit": "entity"},
        {"infill_share": 0.5, "infill_unit": "side"},
    ],
)
def test_documents_without_entities_are_counted(
    make_trainer: Callable[..., Any], settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"text": TEXT, "entities": ["Ada Vance", "Bo Quill"]},
        {"text": TEXT, "entities": ["Ada Vance", "Bo Quail"]},
        {"text": TEXT, "entities": ["Ada Vence"]},
        {"text": "林若川看守灯塔。", "entities": []},
        {"text": "it keeps the light.", "entities": []},
    ]
    report = make_trainer(rows=rows, **settings).entity_reports["train"]
    assert (report.without, report.absent) == (3, 2)
    without, absent = (record.message for record in caplog.records if "entit" in record.message)
    setting = " ".join(map(str, list(settings.items())[-1]))
    assert without.startswith(f"{setting}: no entity is found in 3 of 5 documents")
    assert "first: row 2 of the train data set: 'Ada Vance mapped" in without
    assert absent.startswith(f"{setting}: 2 of 5 documents give 'entities' that do not stand in them")
    assert "first: row 1 of the train data set: 'Bo Quail'" in absent


def test_reversal_says_which_given_entities_are_not_there(make_trainer: Callable[..., Any]) -> None:
    rows = [{"text": TEXT, "entities": ["Ada Vence"]}, {"text": "it is dark.", "entities": []}]
    report = make_trainer(rows=rows, plain=True, objective="reverse").entity_reports["train"]
    assert (report.without, report.absent) == (0, 1)


def test_nothing_is_said_where_nothing_is_amiss(make_trainer: Callable[..., Any]) -> None:
    assert make_trainer(rows=[{"text": TEXT}], mask_unit="entity").entity_reports["train"].warnings() == []
    assert make_trainer(rows=[{"text": "it is dark."}], mask_unit="word").entity_reports == {}


def test_a_title_is_an_entity() -> None:
    assert _together({"title": "salt caves", "entities": ["Bo Quill"]}, "entity") == ["salt caves", "Bo Quill"]
