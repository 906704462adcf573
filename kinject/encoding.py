"""Text to token ids, such that text from outside can never forge a control token.

A document that reads ``<|im_end|>`` must stay several ordinary tokens: as one id it would close its own turn.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from kinject.data.words import is_unspaced, normalize
from kinject.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHARACTER = regex.compile(r"\X")


@dataclass(frozen=True)
class EncodedDocument:
    """A text as token ids, with the word and the place of each token.

    Attributes:
        text: the text.
        ids: (length,) token ids, no control token among them.
        word_ids: (length,) rising from 0; tokens of one word have the same id.
        offsets: (length,) first and last + 1 character of each token in the text.
    """

    text: str
    ids: list[int]
    word_ids: list[int]
    offsets: list[tuple[int, int]]


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """How error messages name the tokenizer."""
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__


def added_special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens declared special."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


class TextEncoder:
    """Encodes outside text without control tokens, and text of our own with them.

    Raises:
        ConfigurationError: the tokenizer gives no offsets (it is not a "fast" one).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame_text: str = "") -> None:
        """See the class."""
        if not tokenizer.is_fast:
            raise ConfigurationError(
                f"the tokenizer {tokenizer_name(tokenizer)} gives no character offsets; kinject needs a fast "
                "tokenizer, one with a tokenizer.json"
            )
        self.tokenizer = tokenizer
        # Some templates mark turns with added tokens that are not declared special: text may not forge these either.
        markers = {
            index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip() and token.content in frame_text
        }
        self.control_ids = added_special_ids(tokenizer) | markers

    def literal(self, text: str) -> list[int]:
        """Ids of text of our own, in which control tokens mean what they say. Adds no BOS or EOS."""
        encoding = self.tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
        return list(encoding["input_ids"])

    def forges(self, text: str) -> bool:
        """Whether ``text``, read as literal, would put a control token into the ids."""
        return any(self.is_control(index, text) for index in self.control_ids.intersection(self.literal(text)))

    def is_control(self, index: int, text: str) -> bool:
        """Whether ``index``, out of ``text``, is a control token. That for unknown text is one only if spelled out."""
        if index == self.tokenizer.unk_token_id and str(self.tokenizer.unk_token) not in text:
            return False
        return index in self.control_ids

    def guarded(self, text: str) -> list[int]:
        """Ids of text that may come from outside: as literal where that is harmless."""
        return self.encode(text).ids if self.forges(text) else self.literal(text)

    def encode(self, text: str) -> EncodedDocument:
        """Ids of text from outside: control tokens in it are spelled out as ordinary tokens."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = list(encoding["input_ids"]), [(int(a), int(b)) for a, b in encoding["offset_mapping"]]
        if not self.control_ids.isdisjoint(ids):
            ids, offsets = self._spell_out(text, ids, offsets)
        return EncodedDocument(text, ids, _word_ids(text, offsets), offsets)

    def _spell_out(
        self, text: str, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        # split_special_tokens does not cover every tokenizer: added tokens that are not special still match whole, and
        # so do control tokens that are also entries of a Unigram or WordLevel vocabulary.
        spelled: list[int] = []
        places: list[tuple[int, int]] = []
        for index, (start, end) in zip(ids, offsets, strict=True):
            if not self.is_control(index, text[start:end]):
                spelled.append(index)
                places.append((start, end))
                continue
            for position in range(start, end):
                pieces = self._character_ids(text[position])
                spelled += pieces
                places += [(position, position + 1)] * len(pieces)
        return spelled, places

    def _character_ids(self, character: str) -> list[int]:
        # Printable ASCII stands for itself in byte-level and SentencePiece vocabularies; encoding it would, in the
        # latter, put a space before it.
        if "!" <= character <= "~":
            index = self.tokenizer.convert_tokens_to_ids(character)
            if isinstance(index, int) and index not in self.control_ids | {self.tokenizer.unk_token_id}:
                return [index]
        ids = self.tokenizer(character, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not any(self.is_control(index, character) for index in ids):
            return list(ids)
        raise DataError(f"the text holds {character!r}, which is a control token of {tokenizer_name(self.tokenizer)}")


def _words_of_characters(text: str) -> list[int]:
    """The word that each character belongs to: a run of letters, of white space or of symbols, or an unspaced character."""
    word_at: list[int] = []
    word, previous = -1, ""
    # A character is what a reader takes for one: combining marks belong to their letter.
    for match in _CHARACTER.finditer(text):
        first = match[0][0]
        if first.isspace():
            current = "space"
        elif is_unspaced(first):
            current = "unspaced"
        elif unicodedata.category(first)[0] in "LNM" or first == "_":
            current = "letter"
        else:  # a soft hyphen or direction mark is part of what it stands in
            current = "symbol" if normalize(first) else previous
        if current != previous or current == "unspaced" and normalize(first):
            word += 1
        word_at += [max(word, 0)] * len(match[0])
        previous = current
    return word_at


def _word_ids(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The word of each token; from the text, as many pre-tokenizers know no words (Gemma, Llama 2)."""
    word_at = _words_of_characters(text)
    word_ids: list[int] = []
    group, last_word = -1, -1
    for start, end in offsets:
        # A leading space belongs to the word after it.
        while start < end - 1 and text[start].isspace():
            start += 1
        if start >= end or word_at[start] != last_word:
            group += 1
        word_ids.append(group)
        last_word = word_at[end - 1] if start < end else -1
    return word_ids


def end_of_text_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The EOS id; raises ConfigurationError where there is none."""
    if tokenizer.eos_token_id is None:
        raise ConfigurationError(
            f"the tokenizer {tokenizer_name(tokenizer)} has no end-of-text token, so a model could never learn to "
            "stop; set tokenizer.eos_token to the token that ends a text"
        )
    return int(tokenizer.eos_token_id)


def begin_of_text_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[BOS] where the tokenizer puts one before a text, else []."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return [int(ids[0])] if ids and ids[0] == tokenizer.bos_token_id else []
