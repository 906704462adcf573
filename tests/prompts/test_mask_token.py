"""Which token stands for a hidden one, for vocabularies of many shapes."""

from __future__ import annotations

import pytest

from kinject.errors import ConfigurationError
from kinject.prompts.templates import resolve_mask_token
from tests.conftest import build_tokenizer

LLAMA3 = (
    "<|begin_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|eom_id|>",
    "<|python_tag|>",
)
SMOLLM2 = ("<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>", "<jupyter_start>", "<empty_output>")
QWEN = (
    "<|object_ref_start|>",
    "<|vision_pad|>",
    "<tool_call>",
    "<|fim_prefix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        (LLAMA3, "<|reserved_special_token_2|>"),
        (SMOLLM2, "<reponame>"),
        (QWEN, "<|repo_name|>"),
        (("<tool_call>", "<|fim_prefix|>", "<|fim_pad|>"), "<|fim_pad|>"),
        (("<start_of_turn>", "<unused0>", "<unused1>", "<table>"), "<unused0>"),
        (("<extra_id_0>", "<|reserved|>"), "<extra_id_0>"),
        (("[INST]", "[TOOL_CALLS]", "[control_8]"), "[control_8]"),
        (("[INST]", "<SPECIAL_20>"), "<SPECIAL_20>"),
        (("<|dummy_0|>", "<|assistant|>"), "<|dummy_0|>"),
        (("<|mask_start|>", "<|mdm_mask|>", "<unused0>"), "<|mdm_mask|>"),
        (("<|vision_start|>", "<|vendor_7|>", "<|lang_en|>", "<|quux|>"), "<|quux|>"),
    ],
)
def test_an_unused_token_is_found(added: tuple[str, ...], expected: str) -> None:
    tokenizer = build_tokenizer(extra_tokens=added)
    assert resolve_mask_token(tokenizer) == tokenizer.convert_tokens_to_ids(expected)


def test_the_tokenizers_own_mask_token_comes_first() -> None:
    tokenizer = build_tokenizer(extra_tokens=("<unused0>", "<|mdm_mask|>"))
    tokenizer.mask_token = "<unused0>"
    assert resolve_mask_token(tokenizer) == tokenizer.mask_token_id


def test_reserved_entries_that_are_not_added_tokens_serve_too() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "reserved": 1, "[unused1]": 2, "ada": 3}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert resolve_mask_token(tokenizer) == 2


@pytest.mark.parametrize(
    "added", [(), ("<|vision_start|>", "<think>", "<|eot_id|>", "<tool_response>", "<|fim_middle|>"), ("\n\n",)]
)
def test_no_usable_token_says_how_to_name_one(added: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="--mask_token"):
        resolve_mask_token(build_tokenizer(extra_tokens=added))


def test_tokens_of_the_chat_template_are_in_use() -> None:
    tokenizer = build_tokenizer("<unused0>{{ messages[0]['content'] }}", extra_tokens=("<unused0>", "<unused1>"))
    assert resolve_mask_token(tokenizer) == tokenizer.convert_tokens_to_ids("<unused1>")
    with pytest.raises(ConfigurationError, match="already has a use"):
        resolve_mask_token(tokenizer, "<unused0>")


def test_ids_outside_the_models_vocabulary_are_passed_over() -> None:
    tokenizer = build_tokenizer(extra_tokens=("<gh_stars>", "<unused0>"))
    stars, unused = map(tokenizer.convert_tokens_to_ids, ["<gh_stars>", "<unused0>"])
    assert resolve_mask_token(tokenizer, vocab_size=unused + 1) == unused
    assert resolve_mask_token(tokenizer, vocab_size=unused) == stars
    with pytest.raises(ConfigurationError, match="within the model's vocabulary"):
        resolve_mask_token(tokenizer, vocab_size=stars)
    with pytest.raises(ConfigurationError, match=rf"has id {unused}, .* ends at {stars}; .*never resized"):
        resolve_mask_token(tokenizer, "<unused0>", vocab_size=unused)


def test_a_named_token_may_be_an_added_token_or_a_plain_entry() -> None:
    tokenizer = build_tokenizer()
    size = len(tokenizer)
    assert resolve_mask_token(tokenizer, "<reserved_0>") == tokenizer.convert_tokens_to_ids("<reserved_0>")
    assert resolve_mask_token(tokenizer, "#") == tokenizer.convert_tokens_to_ids("#")
    assert resolve_mask_token(tokenizer, " ") == tokenizer.convert_tokens_to_ids("Ġ")
    assert len(tokenizer) == size


@pytest.mark.parametrize("name", ["[]", "<mask>", "", "éé"])
def test_a_name_that_is_no_single_token_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not one token of"):
        resolve_mask_token(build_tokenizer(), name)


@pytest.mark.parametrize("name", ["<|im_end|>", "<|bos|>", "<|im_start|>"])
def test_a_name_with_another_use_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="already has a use"):
        resolve_mask_token(build_tokenizer(), name)
