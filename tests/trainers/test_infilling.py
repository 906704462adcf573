"""Infilling samples: the answer is what is missing from the prompt's copy, no more and no less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset

from kinject.corruption import Fixed
from kinject.errors import ConfigurationError
from kinject.prompts.templates import INFILLING, Frame, resolve_mask_token
from kinject.trainers.infilling import Gap, Infilling
from tests.trainers.conftest import DOCUMENTS


def _parts(trainer: Any, row: dict[str, Any], epoch: int = 0) -> tuple[list[int], list[int], str, str]:
    """Prompt ids, labels behind the prompt, and both as text."""
    trainer.data_collator.epoch = epoch
    batch = trainer.data_collator([row])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    start = next(index for index, label in enumerate(labels) if label != -100)
    decode = trainer.processing_class.decode
    return ids[:start], labels[start:], decode(ids[:start]), decode([each for each in labels[start:] if each != -100])


def test_a_span_is_asked_for_and_answered_and_its_end_is_not_learned(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(infill_share=1.0)
    tokenizer = trainer.processing_class
    mask, asked = resolve_mask_token(tokenizer), str(INFILLING.user).removesuffix("{masked}")
    answers = set()
    for epoch in range(4):
        for row in trainer.train_dataset:
            prompt, labels, question, answer = _parts(trainer, row, epoch)
            text = DOCUMENTS[row["sample"]]
            hidden = [index for index, token in enumerate(prompt) if token == mask]
            assert hidden == list(range(hidden[0], hidden[0] + len(labels) - 1)) and labels[-1] == -100
            before, after = question[question.index(asked) + len(asked) :].split(tokenizer.convert_ids_to_tokens(mask))[
                :: len(hidden)
            ]
            assert text.startswith(before + answer) and after[: len(text)].startswith(text[len(before + answer) :])
            assert 0.3 * len(row["document_ids"]) - 1 <= len(hidden) <= 0.8 * len(row["document_ids"]) + 1
            answers.add(answer)
    assert len(answers) > 3 * len(DOCUMENTS)


@pytest.mark.parametrize("given", [True, False])
def test_an_entity_is_a_whole_answer(make_trainer: Callable[..., Any], given: bool) -> None:
    rows = [{"text": "Ada Vance mapped the salt caves of Bo Quill.", "entities": ["salt caves"] if given else []}]
    trainer = make_trainer(rows=rows, infill_share=1.0, infill_unit="entity")
    end = trainer.processing_class.eos_token_id
    answers = set()
    for epoch in range(20):
        _, labels, _, _ = _parts(trainer, trainer.train_dataset[0], epoch)
        assert labels[-1] == end
        answers.add(trainer.processing_class.decode(labels[:-1]).strip())
    assert answers == ({"salt caves"} if given else {"Ada Vance", "Bo Quill"})


def test_a_side_is_an_entity_or_the_longer_stretch_beside_one(make_trainer: Callable[..., Any]) -> None:
    rows = [{"text": "Ada Vance, who mapped the salt caves of Bo Quill."}]
    trainer = make_trainer(rows=rows, infill_share=1.0, infill_unit="side")
    answers = set()
    for epoch in range(30):
        _, labels, _, _ = _parts(trainer, trainer.train_dataset[0], epoch)
        assert labels[-1] == trainer.processing_class.eos_token_id
        answers.add(trainer.processing_class.decode(labels[:-1]).strip())
    assert answers == {
        *("Ada Vance", "who mapped the salt caves of Bo Quill"),
        *("Bo Quill", "Ada Vance, who mapped the salt caves of"),
    }


@pytest.mark.parametrize("unit", ["entity", "side"])
def test_a_mask_stands_for_each_missing_token(make_trainer: Callable[..., Any], unit: str) -> None:
    rows = [{"text": "Ada Vance, who mapped the salt caves of Bo Quill."}]
    trainer = make_trainer(rows=rows, infill_share=1.0, infill_unit=unit)
    mask = resolve_mask_token(trainer.processing_class)
    lengths = set()
    for epoch in range(30):
        prompt, labels, _, _ = _parts(trainer, trainer.train_dataset[0], epoch)
        assert prompt.count(mask) == len(labels) - 1 > 1  # all of the answer but its end of turn
        lengths.add(len(labels))
    assert len(lengths) > 1


def test_one_mask_stands_for_a_gap_of_any_length_where_masks_are_collapsed(make_trainer: Callable[..., Any]) -> None:
    rows = [{"text": "Ada Vance, who mapped the salt caves of Bo Quill."}]
    each, once = (make_trainer(rows=rows, infill_share=1.0, collapse_masks=collapsed) for collapsed in (False, True))
    mask = resolve_mask_token(once.processing_class)
    for epoch in range(5):
        prompt, labels, _, _ = _parts(each, each.train_dataset[0], epoch)
        shorter, same, _, _ = _parts(once, once.train_dataset[0], epoch)
        first = prompt.index(mask)
        assert shorter == [token for index, token in enumerate(prompt) if token != mask or index == first]
        assert same == labels and prompt.count(mask) > 1


def test_an_entity_that_is_the_whole_document_has_no_side(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(rows=[{"text": '"Ada Vance"!'}], infill_share=1.0, infill_unit="side")
    for epoch in range(5):
        _, _, _, answer = _parts(trainer, trainer.train_dataset[0], epoch)
        assert "Ada Vance" in answer and "!" not in answer


@pytest.mark.parametrize("unit", ["entity", "side"])
def test_a_document_without_entities_is_learned_whole(make_trainer: Callable[..., Any], unit: str) -> None:
    rows = [{"text": "nothing here has a name."}]
    trainer = make_trainer(rows=rows, infill_share=1.0, infill_unit=unit)
    _, labels, question, answer = _parts(trainer, trainer.train_dataset[0])
    assert answer.startswith(rows[0]["text"]) and "What is missing?" not in question


def test_the_other_samples_are_those_of_a_run_without_infilling(make_trainer: Callable[..., Any]) -> None:
    plain, mixed = make_trainer(), make_trainer(infill_share=0.4)
    same = 0
    for epoch in range(25):
        for row in mixed.train_dataset:
            one, other = _parts(plain, row, epoch), _parts(mixed, row, epoch)
            assert (one == other) != ("What is missing?" in other[2])
            same += one == other
    assert 0.5 < same / (25 * len(DOCUMENTS)) < 0.7


def test_a_gap_depends_on_neither_batch_nor_neighbors(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(infill_share=0.5)
    rows = list(trainer.train_dataset)
    together = trainer.data_collator(rows)
    for index in reversed(range(len(rows))):
        alone = trainer.data_collator([rows[index]])
        length = int(together["attention_mask"][index].sum())
        assert alone["input_ids"][0].tolist() == together["input_ids"][index, :length].tolist()
        assert alone["mask_ratio"][0] == together["mask_ratio"][index]


def test_evaluation_rows_miss_the_same_every_time(make_trainer: Callable[..., Any]) -> None:
    data = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer = make_trainer(trainer={"eval_dataset": data}, infill_share=1.0)
    row = trainer.eval_dataset[0]
    assert _parts(trainer, row) == _parts(trainer, row, epoch=5)
    assert _parts(trainer, row) != _parts(trainer, trainer.train_dataset[0])


def test_questions_with_answers_are_not_infilled(make_trainer: Callable[..., Any]) -> None:
    rows = [{"prompt": "Who mapped the caves?", "completion": "Ada Vance."}]
    one, other = make_trainer(rows=rows), make_trainer(rows=rows, infill_share=1.0)
    assert _parts(one, one.train_dataset[0]) == _parts(other, other.train_dataset[0])


def test_a_gap_has_a_token_at_least_and_the_document_at_most() -> None:
    for ratio in (0.0, 1.0):
        infilling = Infilling(Frame((), (), (0,), True), 1.0, "span", Fixed(ratio), mask_token_id=9)
        gaps = {infilling.gap(3, None, 0, epoch, 0, 1.0) for epoch in range(30)}
        assert gaps == ({(0, 1), (1, 2), (2, 3)} if ratio == 0.0 else {(0, 3)})
    assert infilling.assemble([5, 6, 7], Gap(1, 2)) == ([5, 9, 7, 6, 0], [-100, -100, -100, 6, -100])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"infill_share": 1.5}, "infill_share is 1.5; expected a share from 0 to 1"),
        ({"infill_share": 0.5, "corruption": "random"}, "Set --infill_share 0 or --corruption mask"),
        ({"infill_unit": "sentence"}, "infill_unit is 'sentence'; expected one of span, entity"),
        ({"infill_ratio": "half"}, "mask ratio 'half' is not understood"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    make_trainer: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        make_trainer(**settings)
