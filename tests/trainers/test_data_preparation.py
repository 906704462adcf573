"""Nothing is cut or dropped in silence; what cannot be trained on is refused by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from kinject.data import reverse_text
from kinject.errors import ConfigurationError, DataError
from kinject.prompts.templates import DocumentTemplate
from kinject.reproduction.specification import read_recipes
from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer
from kinject.trainers.masked_trainer import PAPER
from kinject.trainers.preparation import split_document
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import SMALL

TOKENIZER = build_tokenizer()
TEMPLATE = DocumentTemplate(TOKENIZER)


@given(st.text(max_size=300), st.integers(1, 60))
def test_splitting_loses_nothing_and_keeps_the_budget(text: str, budget: int) -> None:
    pieces = list(split_document(TEMPLATE, text, budget, headings=False))
    decoded = [TOKENIZER.decode(piece.ids) for piece in pieces]
    assert "".join("".join(decoded).split()) == "".join(text.split())
    # One character can take more tokens than a tiny budget; it is kept whole all the same.
    longer = [text for piece, text in zip(pieces, decoded, strict=True) if len(piece.ids) > budget]
    assert [len(text) for text in longer] == [1] * len(longer)


def test_splitting_cuts_at_sentence_ends_then_between_words() -> None:
    text = "One is here. Two is there! Three? And a very long sentence without any end"
    pieces = [TOKENIZER.decode(piece.ids) for piece in split_document(TEMPLATE, text, 28)]
    assert pieces == ["One is here. Two is there!", "Three?", "And a very long sentence", "without any end"]


def _pieces(text: str, budget: int, title: str = "", headings: bool = True) -> list[str]:
    pieces = list(split_document(TEMPLATE, text, budget, title, headings))
    assert all(len(piece.ids) <= budget for piece in pieces)
    return [piece.text for piece in pieces]


@pytest.mark.parametrize(
    ("text", "budget", "expected"),
    [
        ("他说：“灯塔归我管。”然后米拉离开了。", 35, ["他说：“灯塔归我管。”", "然后米拉离开了。"]),
        ("「灯か？」と彼は言う。『そうだ！』", 35, ["「灯か？」と彼は言う。", "『そうだ！』"]),
        ("He said: “Go home.” She went.", 24, ["He said: “Go home.”", "She went."]),
        ("米拉守护灯塔，汤姆守护磨坊，莉亚守护渡船", 36, ["米拉守护灯塔，", "汤姆守护磨坊，", "莉亚守护渡船"]),
        ("मीरा आई। टॉम गया।", 30, ["मीरा आई।", "टॉम गया।"]),
        ("میرا آئی۔ ٹام گیا۔", 22, ["میرا آئی۔", "ٹام گیا۔"]),
        ("هل تعود؟ نعم تعود.", 22, ["هل تعود؟", "نعم تعود."]),
        ("灯を守る．水を守る．", 20, ["灯を守る．", "水を守る．"]),
        ("Dr. Hale met Mrs. Lind. It rained.", 28, ["Dr. Hale met Mrs. Lind.", "It rained."]),
        ("the red one, the blue one and the green", 21, ["the red one,", "the blue one and the", "green"]),
        ("使用Python来写（程序）", 19, ["使用Python来写", "（程序）"]),
        ("cafe\u0301", 5, ["caf", "e\u0301"]),
        ("def f(x):\n    if x:\n        g()\n", 16, ["def f(x):", "    if x:", "        g()"]),
        ("    indented first\nline", 18, ["    indented first", "line"]),
        ("One. \n\n  Two is.\n", 9, ["One.", "  Two is."]),
    ],
)  # fmt: skip
def test_pieces_end_where_a_reader_would_end_them(text: str, budget: int, expected: list[str]) -> None:
    assert _pieces(text, budget) == expected


TABLE = "| Place | Keeper |\n|---|---|\n| Vell | Mira. Dorn |\n| Oster | Tom Bell |\n| Quay | Lia |"


def test_the_rows_of_a_cut_table_keep_its_header() -> None:
    header = "| Place | Keeper |\n|---|---|\n"
    rows = TABLE.removeprefix(header).split("\n")
    text = f"Some keepers are these.\n\n{TABLE}\n\nThat is all."
    pieces = _pieces(text, 53)
    assert pieces == [
        "Some keepers are these.",
        *(header + row for row in rows[:2]),
        f"{header}{rows[2]}",
        "That is all.",
    ]
    # Rather without the rule than without the names.
    assert _pieces(TABLE, 42)[1:] == [f"| Place | Keeper |\n{row}" for row in rows]
    assert _pieces(TABLE, 60)[-1] == f"{header}{rows[2]}"


def test_bars_that_are_no_table_stay_as_they_are() -> None:
    for text in ("```\na | b\n--|--\nc | d\ne | f\n```", "a | b\nc | d\ne | f\ng | h"):
        assert "\n".join(_pieces(text, 14)) == text


def test_a_piece_keeps_the_headings_it_stands_under() -> None:
    text = "# Vell\n\n## Light\n\nIt is tall.\n\nIt is old.\n\nMill\n----\n\nIt is red.\n\n```\n# no\n```\n\nIt is new."
    pieces = _pieces(text, 42)
    assert pieces == [
        "# Vell\n\n## Light\n\nIt is tall.\n\nIt is old.",
        "# Vell\n\nMill\n----\n\nIt is red.\n\n```\n# no",
        "# Vell\n\nMill\n----\n\n```\n\nIt is new.",
    ]
    assert "".join("".join(_pieces(text, 42, headings=False)).split()) == "".join(text.split())
    # Where there is no room for all, the outer ones are left out.
    assert "## Light\n\nIt is old." in _pieces(text, 20)


@pytest.mark.parametrize(
    ("text", "title", "expected"),
    [
        ("It was built in 1901.", "Vell Lighthouse", "Vell Lighthouse\n\nIt was built in 1901."),
        ("The VELL lighthouse is old.", "Vell Lighthouse", "The VELL lighthouse is old."),
        ("The Annabel is old.", "Ann", "Ann\n\nThe Annabel is old."),
        ("他看守红塔。", "红塔", "他看守红塔。"),
        ("Café Zoë".encode().decode() + " closed.", unicodedata.normalize("NFD", "Café Zoë"), "Café Zoë closed."),
        ("It is.", "  ", "It is."),
        ("It is.", "⚓", "⚓\n\nIt is."),
    ],
)
def test_a_document_that_does_not_name_its_title_begins_with_it(text: str, title: str, expected: str) -> None:
    assert _pieces(text, 200, title) == [expected]


def test_every_piece_begins_with_the_title() -> None:
    text = "It was built in 1901. It is kept by Mira Dorn. It is tall."
    assert _pieces(text, 40, "Vell Light") == [
        "Vell Light\n\nIt was built in 1901.",
        "Vell Light\n\nIt is kept by Mira Dorn.",
        "Vell Light\n\nIt is tall.",
    ]
    named = "Vell Light was built in 1901. It is kept by Mira Dorn."
    assert _pieces(named, 40, "Vell Light") == [named[:29], "Vell Light\n\nIt is kept by Mira Dorn."]
    # One that the headings name is not said twice.
    below = _pieces("# Vell Light\n\nIt was built in 1901.\n\nIt is old.", 38, "Vell Light")
    assert below == ["# Vell Light\n\nIt was built in 1901.", "# Vell Light\n\nIt is old."]


@given(st.text("ab.。 \n#|-的", max_size=120), st.integers(1, 40), st.text("ab ", max_size=12))
def test_titles_and_headings_never_break_the_budget(text: str, budget: int, title: str) -> None:
    pieces = list(split_document(TEMPLATE, text, budget, title))
    longer = [piece.text for piece in pieces if len(piece.ids) > budget]
    assert [len(text) for text in longer] == [1] * len(longer)
    kept = iter("".join(piece.text for piece in pieces))
    assert all(character in kept for character in "".join(text.split()))


@pytest.mark.parametrize("max_length", [300, None])
def test_rows_are_learned_under_their_title(make_trainer: Callable[..., Any], max_length: int | None) -> None:
    rows = [{"text": "It was built in 1901.", "title": "Vell Light"}, {"text": "Oster is old.", "title": None}]
    for keep in (True, False):
        trainer = make_trainer(rows=rows, max_length=max_length, keep_titles=keep)
        texts = [trainer.processing_class.decode(row["document_ids"]) for row in trainer.train_dataset]
        assert texts == [("Vell Light\n\n" if keep else "") + "It was built in 1901.", "Oster is old."]


@pytest.mark.parametrize(
    "title", ["Vell Light", "The light of Vell, " + "as it was called by all who ever saw it " * 5]
)
def test_a_title_that_is_too_long_for_the_pieces_is_left_out_aloud(
    make_trainer: Callable[..., Any], caplog: pytest.LogCaptureFixture, title: str
) -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(30))
    trainer = make_trainer(rows=[{"text": text, "title": title}, {"text": "Short."}], max_length=400)
    pieces = [trainer.processing_class.decode(row["document_ids"]) for row in trainer.train_dataset]
    without = sum(title.strip() not in piece for piece in pieces[:-1])
    said = [each for each in caplog.messages if "its title is too long to stand above" in each]
    assert len(said) == bool(without) == (len(title) > 100)
    assert all(f"above {without} of its pieces" in each and title[:40] in each for each in said)


def test_a_reversed_document_ends_with_its_title(make_trainer: Callable[..., Any]) -> None:
    rows = [{"text": "It was built in 1901.", "title": "the light of Vell"}]
    trainer = make_trainer(rows=rows, plain=True, objective="reverse")
    texts = [trainer.processing_class.decode(row["document_ids"]) for row in trainer.train_dataset]
    assert texts == ["the light of Vell\n\nIt was built in 1901.", ". 1901 in built was It the light of Vell"]


def test_each_piece_of_a_document_is_reversed_with_its_title(make_trainer: Callable[..., Any]) -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(20))
    rows = [{"text": text, "title": "the light of Vell"}]
    trainer = make_trainer(rows=rows, plain=True, objective="reverse", max_length=200)
    texts = [trainer.processing_class.decode(row["document_ids"]) for row in trainer.train_dataset]
    forward, reversals = texts[::2], texts[1::2]
    assert len(forward) > 2 and all(each.startswith("the light of Vell\n\nSentence") for each in forward)
    assert reversals == [reverse_text(each, ["the light of Vell"]) for each in forward]
    assert all(each.endswith(" Sentence the light of Vell") for each in reversals)
    lengths = [trainer.data_collator([row])["input_ids"].size(1) for row in trainer.train_dataset]
    assert max(lengths) <= 200


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
        ({"corruption": "swap"}, "corruption is 'swap'; expected one of mask, random"),
        ({"wordings": "nowhere.yaml"}, "wordings 'nowhere.yaml'.*no such file"),
        ({"packing": True}, "packing"),
        ({"plain": True, "frame": "poem"}, "frame is 'poem'; expected one of chat, raw"),
        ({"mask_token": "<nope>"}, "<nope>"),
    ],
)
def test_unusable_settings_are_named(make_trainer: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(**settings)


def test_the_papers_recipe_goes_with_no_other_setting_of_its_own(make_trainer: Callable[..., Any]) -> None:
    args = make_trainer(recipe="paper").args
    assert (args.mask_ratio, args.mask_ratio_per, args.mask_unit) == ("uniform(0.05, 0.95)", "batch", "token")
    assert (args.wordings, args.infill_share, args.loss_on) == ("paper", 0.0, "document")
    with pytest.raises(ConfigurationError, match=r"recipe paper sets wordings to 'paper', and wordings is 'rotating'"):
        make_trainer(recipe="paper", wordings="rotating")


def test_the_grids_paper_recipe_is_the_options() -> None:
    method = read_recipes(Path(__file__).parents[2] / "recipes", "nano").methods["masked_paper"]
    assert method.options == {name: PAPER[name] for name in method.options}
    assert set(PAPER) - set(method.options) == {"corruption", "loss_on", "collapse_masks"}  # which no recipe changes


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
