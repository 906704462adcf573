"""Documents to token ids: words, places, and no control token that was not put there."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.errors import ConfigurationError
from kinject.prompts.templates import MASKED_ANSWER, DocumentTemplate, QuestionTemplate, assemble
from tests.conftest import CHATML, build_tokenizer
from tests.prompts.chat_templates import BY_NAME, text_of, tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def test_word_ids_join_the_tokens_of_a_word() -> None:
    template = DocumentTemplate(tokenizer_of(BY_NAME["chatml"]))
    text = "Ada's naïve plan, 漢字 नमस्ते!"
    encoded = template.encode(text)
    words: dict[int, str] = {}
    for word, (start, end) in zip(encoded.word_ids, encoded.offsets, strict=True):
        for i in range(start, end):
            if text[i] not in words.get(word, ""):
                words[word] = words.get(word, "") + text[i]
    assert encoded.word_ids == sorted(encoded.word_ids)
    assert {"naïve", "plan", ",", "漢", "字", "नमस्ते", "!"} <= {word.strip() for word in words.values()} | {"plan"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada's naïve C++ plan, 3.5!", "Ada|'|s| |naïve| |C|++| |plan|,| |3|.|5|!"),
        (unicodedata.normalize("NFD", "naïve été"), unicodedata.normalize("NFD", "naïve| |été")),
        ("नमस्ते क्षत्रिय।", "नमस्ते| |क्षत्रिय|।"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("co\u00adop \u200bend", "co\u00adop| \u200b|end"),
        ("漢字とｶﾅ、𠮷々", "漢|字|と|ｶ|ﾅ|、|𠮷|々"),
        ("ที่กรุง", "ที่|ก|รุ|ง"),
        ("임서윤은 갔다", "임서윤은| |갔다"),
        ("", ""),
    ],
)
def test_words_of_every_script_hide_together(text: str, expected: str) -> None:
    from kinject.prompts.encoding import _word_ids

    words: dict[int, str] = {}
    for character, word in zip(text, _word_ids(text, [(i, i + 1) for i in range(len(text))]), strict=True):
        words[word] = words.get(word, "") + character
    assert "|".join(words.values()) == expected


def test_a_token_over_two_words_joins_them() -> None:
    from kinject.prompts.encoding import _word_ids

    assert _word_ids("of the end", [(0, 4), (4, 6), (6, 10)]) == [0, 0, 1]
    assert _word_ids("a  b", [(0, 1), (1, 2), (2, 4)]) == [0, 1, 2]
    assert _word_ids("ab", [(0, 1), (1, 1), (1, 2)]) == [0, 1, 2]
    assert _word_ids("", []) == []


def metaspace_tokenizer(unigram: bool) -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer: spaces are "▁", one is put before every text, control tokens are vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", "▁", *map(chr, range(33, 127)), "▁the", "▁plan"]
    model = (
        models.Unigram([(piece, 0.0 if i < 3 else -5.0) for i, piece in enumerate(pieces)], unk_id=0)
        if unigram
        else models.BPE(
            {piece: i for i, piece in enumerate([*pieces, "▁t", "he"])},
            [("▁", "t"), ("h", "e"), ("▁t", "he")],
            unk_token="<unk>",
        )
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = BY_NAME["mistral"].template
    return tokenizer


@pytest.mark.parametrize("unigram", [True, False])
@given(text=st.lists(st.sampled_from([*"ab<>/s ", "the plan", "</s>", "<s>"]), max_size=20).map("".join))
@settings(deadline=None)
def test_documents_of_a_tokenizer_that_puts_a_space_first(unigram: bool, text: str) -> None:
    tokenizer = _metaspace(unigram)
    template = _metaspace_template(unigram)
    ids = template.encode(text).ids
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids)
    assert text_of(tokenizer, ids).lstrip(" ") == text.lstrip(" ")
    frame = template.frames[0]
    sample = assemble(frame, ids, ids)
    (copy, length), (target, _) = sample.copy_positions, sample.document_positions
    assert sample.input_ids[copy : copy + length] == sample.input_ids[target : target + length] == ids
    assert frame.after == (tokenizer.eos_token_id,)
    assert sample.input_ids.count(tokenizer.eos_token_id) == 1


_metaspace = cache(metaspace_tokenizer)


@cache
def _metaspace_template(unigram: bool) -> DocumentTemplate:
    return DocumentTemplate(_metaspace(unigram))


def test_unknown_text_is_no_forgery_but_a_spelled_out_unknown_token_is() -> None:
    tokenizer = _metaspace(True)
    template = _metaspace_template(True)
    assert tokenizer.unk_token_id in template.encode("a é b").ids
    assert tokenizer.unk_token_id not in template.encode("a <unk> b").ids
    question = QuestionTemplate(tokenizer).encode("é <unk>?")
    assert question.count(tokenizer.unk_token_id) == 1


def test_control_tokens_that_are_not_declared_special_cannot_be_forged() -> None:
    from tokenizers import AddedToken

    tokenizer = build_tokenizer(CHATML.replace("<|im_start|>", "<turn>").replace("<|im_end|>", "<END>"))
    tokenizer.add_tokens([AddedToken("<turn>"), AddedToken("<END>", normalized=True), AddedToken("<b>")])
    tokenizer.add_tokens([AddedToken("<Stop>", normalized=True, special=True)], special_tokens=True)
    template = DocumentTemplate(tokenizer)
    turn, end, bold, stop = map(tokenizer.convert_tokens_to_ids, ["<turn>", "<END>", "<b>", "<Stop>"])
    assert template.frames[0].after == (end,)
    text = "a <END> <turn>user<b> <Stop> <END>"
    encoded = template.encode(text)
    assert not {turn, end, stop} & set(encoded.ids) and bold in encoded.ids
    assert text_of(tokenizer, encoded.ids) == text
    assert [text[start:end] for start, end in encoded.offsets][2] == "<"
    (frame,) = DocumentTemplate(tokenizer, [MASKED_ANSWER]).row_frames(text)
    assert frame.before.count(turn) == 1 and end not in frame.before


def test_a_tokenizer_without_offsets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(ConfigurationError, match="needs a fast tokenizer"):
        DocumentTemplate(tokenizer)
