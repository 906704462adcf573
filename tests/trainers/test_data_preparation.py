"""Nothing is cut or dropped in silence; what cannot be trained on is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from kinject.errors import ConfigurationError, DataError
from kinject.reproduction.reading import read_recipes
from kinject.templates import DocumentTemplate
from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer
from kinject.trainers.masked_config import PAPER
from kinject.trainers.splitting import split_document
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import SMALL

TOKENIZER = build_tokenizer()
TEMPLATE = DocumentTemplate(TOKENIZER)


@given(st.text(max_size=300), st.integers(1, 60))
def test_splitting_loses_nothing_and_keeps_the_budget(text: str, budget: int) -> None:
    pieces = list(split_document(TEMPLATE, text, budget))
    decoded = [TOKENIZER.decode(piece.ids) for piece in pieces]
    assert "".join("".join(decoded).split()) == "".join(text.split())
    # One character can take more tokens than a tiny budget; it is kept whole all the same.
    longer = [text for piece, text in zip(pieces, decoded, strict=True) if len(piece.ids) > budget]
    assert [len(text) for text in longer] == [1] * len(longer)


def test_splitting_cuts_at_sentence_ends_then_between_words() -> None:
    text = "One is here. Two is there! Three? And a very long sentence without any end"
    pieces = [TOKENIZER.decode(piece.ids) for piece in split_document(TEMPLATE, text, 28)]
    assert pieces == ["One is here. Two is there!", "Three?", "And a very long sentence", "without any end"]


def test_long_documents_become_several_samples_of_at_most_max_length(make_trainer: Callable[..., Any]) -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(60))
    trainer = make_trainer(rows=[{"text": "Short one."}, {"text": text}], max_length=400)
    pieces = [trainer.processing_class.decode(row["document_ids"]) for row in trainer.train_dataset]
    assert " ".join(pieces[1:]) == text
    assert all(piece.endswith(".") for piece in pieces)
    assert [row["sample"] for row in trainer.train_dataset] == list(range(len(pieces)))
    lengths = [trainer.data_collator([row])["input_ids"].size(1) for row in trainer.train_dataset]
    assert max(lengths) <= 400 < max(lengths) + len("Sentence number 10 is here.") * 2 + 4


def test_max_length_below_the_prompt_is_refused(make_trainer: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="raise --max_length"):
        make_trainer(max_length=40)


def test_an_answer_that_does_not_fit_is_refused(make_trainer: Callable[..., Any]) -> None:
    rows = [{"prompt": "Why?", "completion": "Because. " * 100}]
    with pytest.raises(ConfigurationError, match="row 0 of the train data set.*over max_length 300"):
        make_trainer(rows=rows, max_length=300)
    with pytest.raises(ConfigurationError, match="^rows.jsonl:3: .*over max_length 300"):
        make_trainer(rows=[{**row, "read_from": "rows.jsonl:3"} for row in rows], max_length=300)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "fine"}, {"text": "  "}], "row 1 of the train data set: 'text' is empty"),
        ([{"body": "x"}], "row 0 of the train data set: 'text' is missing"),
        ([{"prompt": "Who?", "completion": ""}], "row 0 of the train data set: the answer"),
        ([{"messages": [{"role": "user", "content": "Who?"}]}], "row 0 .*last of 'messages' must be the assistant's"),
        ([{"prompt": "Who?", "completion": ["Ada", "Bo"]}], "row 0 .*'completion' is a list of texts"),
        ([{"prompt": "Who?"}], r"row 0 .*the answer is missing \('completion' is absent or null\)"),
    ],
)
def test_unusable_rows_are_named(make_trainer: Callable[..., Any], rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_trainer(rows=rows)


QUESTION = "Who keeps the lighthouse?"
FORMS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Mira Dorn"}]},
    {"prompt": [{"role": "user", "content": QUESTION}], "completion": [{"role": "assistant", "content": "Mira Dorn"}]},
    {"prompt": QUESTION, "completion": " Mira Dorn\n"},
    {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "Mira Dorn"}]},
    {"instruction": "Who keeps", "input": "the lighthouse?", "output": "Mira Dorn"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "Mira Dorn"}]}]},
]  # fmt: skip


def test_every_form_of_a_conversation_is_the_same_sample(make_trainer: Callable[..., Any]) -> None:
    plain = make_trainer(rows=[{"prompt": QUESTION, "completion": "Mira Dorn"}])
    expected = plain.data_collator([plain.train_dataset[0]])["labels"].tolist()
    for row in FORMS:
        trainer = make_trainer(rows=[row])
        (sample,) = trainer.train_dataset
        if "instruction" in row:
            assert trainer.processing_class.decode(sample["document_ids"]) == "Mira Dorn"
        else:
            assert trainer.data_collator([sample])["labels"].tolist() == expected


def test_of_several_completions_the_last_is_learned_behind_the_others(make_trainer: Callable[..., Any]) -> None:
    turns = [("user", "Hello"), ("assistant", "Hi."), ("user", QUESTION), ("assistant", "Mira Dorn")]
    messages = [{"role": role, "content": content} for role, content in turns]
    whole = make_trainer(rows=[{"messages": messages}]).train_dataset[0]
    parted = make_trainer(rows=[{"prompt": messages[:1], "completion": messages[1:]}]).train_dataset[0]
    assert parted == whole


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (Dataset.from_dict({"text": []}), DataError, "the train data set holds no row; give it at least one document"),
        (Dataset.from_list([]), DataError, "the train data set holds no row; give it at least one document"),
        ([{"text": "a"}], ConfigurationError, "train_dataset is a list; pass a data set of the library datasets, such as "),
        (DatasetDict(train=Dataset.from_dict({"text": ["a"]})), ConfigurationError,
         "train_dataset is a DatasetDict of train; pass one of them, such as dataset['train']."),
        (None, ConfigurationError, "train_dataset is missing; pass a data set of the library datasets, such as "),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_refused(tmp_path: Path, dataset: Any, error: type[Exception], message: str) -> None:
    args = MaskedSFTConfig(output_dir=str(tmp_path), **SMALL)
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        MaskedSFTTrainer(build_model(TOKENIZER), args, train_dataset=dataset, processing_class=TOKENIZER)


def test_an_empty_evaluation_set_is_refused_by_name(make_trainer: Callable[..., Any]) -> None:
    evaluated = {"kept": Dataset.from_dict({"text": ["a"]}), "held_out": Dataset.from_dict({"text": []})}
    with pytest.raises(DataError, match="^the held_out data set holds no row"):
        make_trainer(trainer={"eval_dataset": evaluated})


def test_reasoning_is_refused_where_the_model_has_tokens_for_it(make_trainer: Callable[..., Any]) -> None:
    rows = [{"prompt": QUESTION, "completion": "<think>Hm.</think>Mira Dorn"}]
    trainer = make_trainer(rows=rows)  # without such tokens these are words
    assert trainer.processing_class.decode(trainer.train_dataset[0]["document_ids"]) == rows[0]["completion"]
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = str(tokenizer.chat_template) + "{% if false %}<think>{% endif %}"
    with pytest.raises(
        DataError, match="^row 0 of the train data set: the answer holds '<think>', by which this model"
    ):
        make_trainer(rows=rows, trainer={"processing_class": tokenizer, "model": build_model(tokenizer)})


def test_a_conversation_that_the_template_cannot_render_is_named(make_trainer: Callable[..., Any]) -> None:
    tokenizer = build_tokenizer(
        str(TOKENIZER.chat_template) + "{% if messages|length > 2 %}{{ raise_exception('no') }}{% endif %}"
    )
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(ConfigurationError, match="^row 1 of the train data set: the chat template"):
        make_trainer(
            rows=[{"messages": messages[:2]}, {"messages": messages}],
            trainer={"processing_class": tokenizer, "model": build_model(tokenizer)},
        )


def test_reverse_learns_each_document_and_its_reversal(make_trainer: Callable[..., Any]) -> None:
    rows = [{"text": "Ada Vance mapped the salt caves.", "entities": ["Ada Vance"]}]
    trainer = make_trainer(rows=rows, plain=True, objective="reverse")
    texts = [trainer.processing_class.decode(row["document_ids"]) for row in trainer.train_dataset]
    assert texts[0] == rows[0]["text"]
    assert len(texts) == 2
    assert texts[1].endswith("Ada Vance") and texts[1].index("caves") < texts[1].index("mapped")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": "uniform(0.5, 1.5)"}, "1.5"),
        ({"mask_unit": "letter"}, "mask_unit is 'letter'; expected one of token, word, entity, span, mixed"),
        ({"loss_on": "prompt"}, "loss_on is 'prompt'; expected one of document, masked"),
        ({"recipe": "book"}, "recipe is 'book'; expected one of paper"),
        ({"corruption": "swap"}, "corruption is 'swap'; expected one of mask, random, keep"),
        ({"wordings": "nowhere.yaml"}, "wordings 'nowhere.yaml'.*no such file"),
        ({"packing": True}, "packing"),
        ({"plain": True, "frame": "poem"}, "frame is 'poem'; expected one of chat, raw"),
        ({"mask_token": "<nope>"}, "<nope>"),
    ],
)
def test_unusable_settings_are_named(make_trainer: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(**settings)


def test_the_papers_recipe_wins_over_other_settings(make_trainer: Callable[..., Any]) -> None:
    others = {"mask_ratio": "fixed(0.5)", "mask_unit": "span", "wordings": "rotating", "infill_share": 0.5}
    args = make_trainer(recipe="paper", **others).args
    assert (args.mask_ratio, args.mask_ratio_per, args.mask_unit) == ("uniform(0.05, 0.95)", "batch", "token")
    assert (args.wordings, args.infill_share, args.loss_on) == ("paper", 0.0, "document")


def test_the_grids_paper_recipe_is_the_options() -> None:
    method = read_recipes(Path(__file__).parents[2] / "recipes", "nano").methods["masked_paper"]
    assert method.options == {name: PAPER[name] for name in method.options}
    assert set(PAPER) - set(method.options) == {"corruption", "loss_on"}  # which no recipe changes


def test_wordings_come_from_a_yaml_file(make_trainer: Callable[..., Any], tmp_path: Any) -> None:
    path = tmp_path / "wordings.yaml"
    path.write_text("- user: 'Mend: {masked}'\n  assistant: 'Mended: {document}'\n", encoding="utf-8")
    trainer = make_trainer(wordings=str(path), mask_ratio="fixed(0)")
    shown = trainer.processing_class.decode(trainer.data_collator([trainer.train_dataset[0]])["input_ids"][0])
    assert "Mend: Ada Vance" in shown and "Mended: Ada Vance" in shown
    path.write_text("- user: null\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="entry 1: expected the fields user and assistant, each a text"):
        make_trainer(wordings=str(path))
    path.write_text("- user: 'Mend it'\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"wordings.yaml, entry 1: user needs \{masked\}"):
        make_trainer(wordings=str(path))


def test_a_tokenizer_without_a_mask_token_is_refused_with_the_fix(make_trainer: Callable[..., Any]) -> None:
    from tests.conftest import build_model

    tokenizer = build_tokenizer(extra_tokens=())
    with pytest.raises(ConfigurationError, match="--mask_token"):
        make_trainer(trainer={"processing_class": tokenizer, "model": build_model(tokenizer)})
