"""Design invariants 1 and 2: masks are a pure function of (seed, epoch, sample), and only document tokens are masked."""

from __future__ import annotations

import random
from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.corruption import (
    RATIO_STREAM,
    MaskUnit,
    Stratified,
    Uniform,
    draw_mask,
    mask_tokens,
    random_tokens,
    sample_generator,
)
from kinject.prompts.templates import DEMASKING_WORDINGS, FACT, MASKED_ANSWER, RAW, DocumentTemplate, resolve_mask_token
from tests.prompts.chat_templates import CASES, CONTROL_TOKENS, ChatCase, tokenizer_of

cases = st.sampled_from(CASES)
units: st.SearchStrategy[MaskUnit] = st.sampled_from(["token", "word", "entity", "span", "mixed"])
documents = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=15),
        st.sampled_from([*CONTROL_TOKENS, "<|im_end|>", "<think>", "{masked}", "\ue000", " ", "\n", "the mayor of "]),
    ),
    min_size=1,
    max_size=6,
).map("".join)


@cache
def templates(case: ChatCase) -> tuple[DocumentTemplate, DocumentTemplate]:
    tokenizer = tokenizer_of(case)
    return DocumentTemplate(tokenizer, [*DEMASKING_WORDINGS, FACT, RAW]), DocumentTemplate(tokenizer, [MASKED_ANSWER])


@given(cases, documents, documents, units, st.floats(0, 1), st.integers(0, 99), st.booleans())
@settings(max_examples=300, deadline=None)
def test_only_document_tokens_of_the_copy_are_masked(
    case: ChatCase, text: str, question: str, unit: MaskUnit, ratio: float, sample: int, randomly: bool
) -> None:
    from kinject.prompts.templates import assemble

    tokenizer = tokenizer_of(case)
    template, rows = templates(case)
    mask_id = resolve_mask_token(tokenizer)
    document = template.encode(text)
    ids = torch.tensor(document.ids, dtype=torch.long)
    mask = draw_mask(len(ids), ratio, sample_generator(0, 0, sample), unit, document.word_ids)
    noised = (
        random_tokens(ids, mask, list(range(256)), sample_generator(0, 0, sample, 3))
        if randomly
        else mask_tokens(ids, mask, mask_id)
    )
    for frame in (*template.frames, *rows.row_frames(question)):
        clean = assemble(frame, document.ids, document.ids if frame.has_copy else None)
        noisy = assemble(frame, document.ids, noised.tolist() if frame.has_copy else None)
        start, length = noisy.document_positions
        assert noisy.input_ids[start : start + length] == document.ids
        assert noisy.labels == clean.labels
        assert noisy.labels[start : start + length + 1] == [*document.ids, *frame.after]
        assert set(noisy.labels[:start]) <= {-100}
        changed = [i for i, pair in enumerate(zip(clean.input_ids, noisy.input_ids, strict=True)) if len(set(pair)) > 1]
        first, copied = noisy.copy_positions
        assert set(changed) <= {first + i for i in mask.nonzero().flatten().tolist()}
        assert copied == (len(ids) if frame.has_copy else 0)
        scored = assemble(frame, document.ids, noised.tolist() if frame.has_copy else None, mask.tolist()).labels
        expected = [index if hidden else -100 for index, hidden in zip(document.ids, mask.tolist(), strict=True)]
        assert scored == [-100] * start + expected + [-100]


@given(cases, documents)
@settings(max_examples=300, deadline=None)
def test_a_document_of_any_text_is_kept_whole_and_free_of_control_tokens(case: ChatCase, text: str) -> None:
    tokenizer = tokenizer_of(case)
    template, _ = templates(case)
    encoded = template.encode(text)
    assert tokenizer.decode(encoded.ids, clean_up_tokenization_spaces=False) == text
    controls = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS}
    assert not controls & set(encoded.ids)
    assert len(encoded.ids) == len(encoded.word_ids) == len(encoded.offsets)
    assert encoded.word_ids == sorted(encoded.word_ids)
    assert all(0 <= start <= end <= len(text) for start, end in encoded.offsets)


@given(cases, documents)
@settings(max_examples=300, deadline=None)
def test_controls_of_a_rows_frame_do_not_depend_on_its_question(case: ChatCase, question: str) -> None:
    _, rows = templates(case)
    controls = rows._encoder.text.control_ids

    def controls_of(asked: str) -> list[int]:
        (frame,) = rows.row_frames(asked)
        return [index for index in (*frame.before, *frame.between) if index in controls]

    assert controls_of(question) == controls_of("Who is Ada?")


@given(
    st.integers(0, 2**33),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10**6)), max_size=12, unique=True),
    units,
)
@settings(deadline=None)
def test_a_mask_does_not_depend_on_when_or_beside_what_it_is_drawn(
    seed: int, samples: list[tuple[int, int]], unit: MaskUnit
) -> None:
    def draw(epoch: int, sample: int) -> tuple[float, list[bool]]:
        ratio = Stratified(0.05, 0.95).ratio(seed, epoch, sample, 51)
        ratio = (ratio + Uniform(0.05, 0.95).ratio(seed, epoch, sample, 51)) / 2
        length = 10 + sample % 7
        words = [i // 2 for i in range(length)]
        return ratio, draw_mask(length, ratio, sample_generator(seed, epoch, sample), unit, words).tolist()

    forward = {key: draw(*key) for key in samples}
    torch.rand(5), random.random()
    assert {key: draw(*key) for key in reversed(samples)} == forward
    assert all(draw(*key) == forward[key] for key in samples)


def test_masks_differ_between_epochs_samples_and_seeds() -> None:
    masks = {
        tuple(draw_mask(64, 0.5, sample_generator(seed, epoch, sample)).tolist())
        for seed in range(4)
        for epoch in range(8)
        for sample in range(8)
    }
    assert len(masks) == 4 * 8 * 8
    ratios = torch.rand(1, generator=sample_generator(0, 0, 0, RATIO_STREAM))
    assert not torch.equal(ratios, torch.rand(1, generator=sample_generator(0, 0, 0)))
