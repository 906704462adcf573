"""Finds the token that stands for a hidden one, in the vocabulary as it is.

Masked fine-tuning needs no new embedding: the paper (arXiv 2510.09885) takes an id that the tokenizer already reserves.
So the vocabulary is never resized, and a checkpoint fits the model it came from.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kinject.chat import template_source
from kinject.encoding import added_special_ids, tokenizer_name
from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MASK_NAME = re.compile(r"mask", re.IGNORECASE)
# Such as <|reserved_special_token_0|>, <unused0>, <extra_id_0>, [control_8], <SPECIAL_20>, <|placeholder1|>.
_RESERVED_NAME = re.compile(
    r"reserved|unused|extra_id|placeholder|(?:^|\W)(?:dummy|control|special)_\d+(?:\W|$)", re.IGNORECASE
)
_BRACKETED = re.compile(r"^[<\[].*[>\]]$")
# Marks of code corpora, which chats and documents never show. <reponame> first: it is an older spelling of <repo_name>.
_CORPUS_NAMES = ("reponame", "repo_name", "file", "gh_stars", "issue", "jupyter", "empty_output", "commit", "fim_pad")
_IN_USE_NAME = re.compile(
    r"bos|eos|pad|unk|cls|sep(?!_)|begin|start|end|stop|eot|eom|turn|header|system|user|assistant|instruct|inst\b|"
    r"tool|function|call|response|python|think|thought|reason|channel|vision|image|img|video|audio|speech|box|quad|"
    r"object_ref|point|lang|translate|transcribe|prefix|suffix|middle|fim",
    re.IGNORECASE,
)


def resolve_mask_token(
    tokenizer: PreTrainedTokenizerBase, name: str | None = None, vocab_size: int | None = None
) -> int:
    """The id that stands for a hidden token.

    Without a name, the first of: the tokenizer's own mask token; an added token named after a mask; a reserved or
    unused token; a marker of code corpora or another added special token that the chat template does not use.

    Args:
        tokenizer: any tokenizer; it is not changed.
        name: an existing token, or a text that encodes to a single one (such as "[]" for Qwen).
        vocab_size: rows of the model's embedding; ids beyond them are not used.

    Raises:
        ConfigurationError: ``name`` is no single usable token, or no token can be found without one.
    """
    if name is not None:
        return _named(tokenizer, name, vocab_size)
    for index in _candidates(tokenizer):
        if vocab_size is None or index < vocab_size:
            return index
    raise ConfigurationError(
        f"the tokenizer {tokenizer_name(tokenizer)} has no mask token and no reserved or unused token within the "
        "model's vocabulary; name an existing token that documents do not contain, for example --mask_token '[]'"
    )


def _named(tokenizer: PreTrainedTokenizerBase, name: str, vocab_size: int | None) -> int:
    index = tokenizer.get_vocab().get(name)
    if index is None:
        ids = tokenizer(name, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ConfigurationError(
                f"mask_token {name!r} is not one token of {tokenizer_name(tokenizer)} (it encodes to {len(ids)}); name "
                "a single token of the vocabulary, or leave mask_token out to have one found"
            )
        index = ids[0]
    control = index in added_special_ids(tokenizer) and str(tokenizer.convert_ids_to_tokens(index)) in template_source(
        tokenizer
    )
    if control or index in {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}:
        raise ConfigurationError(
            f"mask_token {name!r} already has a use: it begins or ends a text or a turn, or stands for unknown text; "
            "name a token without one"
        )
    if vocab_size is not None and index >= vocab_size:
        raise ConfigurationError(
            f"mask_token {name!r} has id {index}, but the model's vocabulary ends at {vocab_size - 1}; name a token "
            "with a smaller id (the vocabulary is never resized)"
        )
    return int(index)


def _candidates(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Usable ids, best first."""
    template = template_source(tokenizer)
    added = {index: token.content for index, token in sorted(tokenizer.added_tokens_decoder.items())}
    special = added_special_ids(tokenizer)
    in_use = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    free = {i: name for i, name in added.items() if i not in in_use and name.strip() and name not in template}
    vocabulary = {index: name for name, index in tokenizer.get_vocab().items() if index not in added}

    own = [] if tokenizer.mask_token_id is None else [int(tokenizer.mask_token_id)]
    masks = [i for i, name in free.items() if _MASK_NAME.search(name) and not _IN_USE_NAME.search(name)]
    reserved = [i for i, name in free.items() if _RESERVED_NAME.search(name)]
    reserved += sorted(i for i, name in vocabulary.items() if _BRACKETED.match(name) and _RESERVED_NAME.search(name))
    corpus = [i for part in _CORPUS_NAMES for i, name in free.items() if part in name.lower()]
    others = [i for i, name in free.items() if i in special and not _IN_USE_NAME.search(name)]
    return own + masks + reserved + corpus + others
