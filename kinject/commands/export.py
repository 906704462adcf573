"""Writes a trained model for other programs: a whole model on disk, asked again as they load it, and a Modelfile for Ollama.

Knows nothing of servers; docs/serving.md has the command for each.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.commands.evaluate import Claim, find_claim
from kinject.errors import ConfigurationError
from kinject.models.names import require_model
from kinject.models.saving import require_layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kinject.models import LoadedModel

_ALLOWED = 0.05  # share of answers that rounding may change where an adapter is merged into weights of 16 bits
_GENERAL = 16  # questions that are asked where the card's are not known
_KEPT = ("results.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")


@dataclass(frozen=True)
class Export:
    """What was exported, and how its answers compare.

    Attributes:
        directory: Where it lies.
        files: Their names.
        asked: How many questions were asked of both, the trained model and what was exported.
        changed: Of these, each question with both answers where they differ.
        notes: What its user should know.
    """

    directory: Path
    files: tuple[str, ...]
    asked: int
    changed: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


def export(name: str, output_dir: str, *, layout: str = "native", batch_size: int = 32) -> Export:
    """Write the model that ``name`` holds to ``output_dir``: whole, with its tokenizer and the frame of its training.

    It is asked the questions of its card before and after, and appears in ``output_dir`` only once the answers agree.

    Args:
        name: `output_dir` of a run, a saved model or adapter, or a Hub id.
        output_dir: A directory that is not there yet, or empty.
        layout: Names of a diffusion model's weights: `native`, `llada`, `sdar` or `llada2`.
        batch_size: Questions asked at once.

    Raises:
        ConfigurationError: ``output_dir`` holds something, the model cannot be loaded or saved so, or what was exported
            answers otherwise.
    """
    target = Path(output_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"output_dir '{target}' is not empty; name another directory with --output_dir.")
    require_layout(layout)
    require_model(name)
    claim = find_claim(name)
    config = {} if claim is None else (claim.recorded or claim.results)["config"]
    # Importing torch takes seconds: all that can be checked without it was checked above.
    from peft import PeftModel

    from kinject.hub.staging import staging_directory
    from kinject.models import merge_adapter, save_model
    from kinject.models.loading import load
    from kinject.prompts.encoding import pin_template

    loaded = load(name, dtype="auto")
    if layout != "native" and not loaded.is_diffusion:
        raise ConfigurationError(f"--layout {layout} is for masked diffusion models, and '{name}' is autoregressive.")
    pin_template(loaded.tokenizer, config.get("system_prompt"))
    questions, notes = _questions(claim)
    limit = int(config.get("max_new_tokens", 128))
    print(f"asking {len(questions)} questions")
    expected = _answers(loaded, questions, limit, batch_size)
    target.parent.mkdir(parents=True, exist_ok=True)
    with staging_directory(target, roomy=True) as staged:
        place = staged / "model"
        model: Any = loaded.model
        save_model(
            merge_adapter(model) if isinstance(model, PeftModel) else model,
            place,
            layout=layout,  # type: ignore[arg-type]  # of a kind that is known, as was checked above
            tokenizer=loaded.tokenizer,
        )
        diffusion = loaded.is_diffusion
        del model, loaded  # two of them may not fit
        for kept in _KEPT:
            if (Path(name) / kept).is_file():
                shutil.copyfile(Path(name) / kept, place / kept)
        notes += _settle(place, diffusion)
        print("asking what was exported")
        changed = _compare(_reloaded(place), questions, expected, limit, batch_size)
        if len(changed) > _ALLOWED * len(questions):
            question, before, after = changed[0]
            raise ConfigurationError(
                f"the exported model answers {len(changed)} of {len(questions)} questions differently from '{name}', such as "
                f"{question!r}: {after!r} instead of {before!r}. Nothing was written. Report this, please."
            )
        if target.exists():
            target.rmdir()
        os.replace(place, target)
    files = tuple(sorted(path.name for path in target.iterdir()))
    return Export(target, files, len(questions), tuple(changed), tuple(notes))


def _questions(claim: Claim | None) -> tuple[list[str], list[str]]:
    """The questions of the card, or general ones where those are not known, with a note about it."""
    from kinject.evaluation.retention import held_out

    why = "there is no eval card"
    if claim is not None:
        try:
            asked = list(dict.fromkeys(each.question for each in claim.asked()))
        except ConfigurationError:
            asked, why = [], "the questions of the card are not published"
        if asked:
            return asked, []
    general = [each.question for each in held_out("").questions][:_GENERAL]
    return general, [f"{why}, so {len(general)} general questions were asked"]


def _answers(loaded: LoadedModel, questions: Sequence[str], limit: int, batch_size: int) -> list[str]:
    from kinject.evaluation.asking import answer_questions

    return answer_questions(loaded.model, loaded.tokenizer, questions, max_new_tokens=limit, batch_size=batch_size)


def _reloaded(place: Path) -> LoadedModel:
    from kinject.models import load_model

    return load_model(str(place), dtype="auto")


def _compare(
    loaded: LoadedModel, questions: Sequence[str], expected: Sequence[str], limit: int, batch_size: int
) -> list[tuple[str, str, str]]:
    """The questions whose answers differ from ``expected``, with both answers.

    Raises:
        ConfigurationError: a server that renders the chat template would ask with other tokens.
    """
    from kinject.prompts.templates import QuestionTemplate

    tokenizer: Any = loaded.tokenizer
    if tokenizer.chat_template:
        template = QuestionTemplate(tokenizer)
        for question in questions[:_GENERAL]:
            rendered = tokenizer.apply_chat_template(
                [{"role": "user", "content": question.strip()}], add_generation_prompt=True, return_dict=False
            )
            if list(rendered) != template.encode(question):
                raise ConfigurationError(
                    f"a server that renders the chat template would not ask {question!r} with the tokens of training. Nothing "
                    "was written. Report this with the name of the model, please."
                )
    answers = _answers(loaded, questions, limit, batch_size)
    return [each for each in zip(questions, expected, answers, strict=True) if each[1] != each[2]]


def _settle(place: Path, diffusion: bool) -> list[str]:
    """Write greedy decoding as the default of the model in ``place``, and a Modelfile; returns notes for the user."""
    from transformers import AutoTokenizer, GenerationConfig

    from kinject.prompts.templates import QuestionTemplate

    if diffusion:
        return ["a masked diffusion model has no Modelfile: Ollama writes from left to right only (docs/serving.md)"]
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    ends = QuestionTemplate(tokenizer).end_ids
    # What was measured was greedy; a server that samples by default would answer otherwise.
    GenerationConfig(
        do_sample=False,
        eos_token_id=list(ends),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
    ).save_pretrained(place)
    if not tokenizer.chat_template:
        return [
            "the tokenizer has no chat template: ask by completion, with 'Question: ...\\nAnswer:' (docs/serving.md)"
        ]
    written = modelfile(tokenizer)
    if written is None:
        return ["there is no Modelfile: the chat template cannot be written in Ollama's template language"]
    (place / "Modelfile").write_text(written, encoding="utf-8")
    return []


# Ollama's Modelfile: the same frame in the language of Go's templates.


@dataclass(frozen=True)
class Frame:
    """What a chat template writes around a system message, a question and an answer.

    Attributes:
        before_system, after_system: None where the template knows no system message.
        system: The system message of conversations that bring none; "" where there is none.
        before_user, after_user: Around a question, up to where the answer begins.
        after_answer: What ends it.
    """

    before_system: str | None
    after_system: str | None
    system: str
    before_user: str
    after_user: str
    after_answer: str


def modelfile(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The Modelfile of a model whose tokenizer is ``tokenizer``; None where its frame cannot be written there.

    Its template writes, token for token, what the chat template writes.
    """
    from kinject.prompts.templates import QuestionTemplate

    frame = frame_of(tokenizer)
    if frame is None:
        return None
    template = go_template(frame)
    ends: Any = tokenizer.convert_ids_to_tokens(list(QuestionTemplate(tokenizer).end_ids))
    if any('"""' in text for text in (template, frame.system)):
        return None
    lines = [
        "# ollama create NAME -f Modelfile",
        "FROM .",
        f'TEMPLATE """{template}"""',
        *([f'SYSTEM """{frame.system}"""'] if frame.system else []),
        *(f'PARAMETER stop "{end}"' for end in ends if '"' not in end),
        "# Greedy, as it was measured.",
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"


def go_template(frame: Frame) -> str:
    """``frame`` as Ollama fills it in, once for every question and its answer."""

    def literal(text: str) -> str:
        return text.replace("{{", '{{ "{{" }}')

    system = ""
    if frame.before_system is not None and frame.after_system is not None:
        message = f"{literal(frame.before_system)}{{{{ .System }}}}{literal(frame.after_system)}"
        system = f"{{{{ if .System }}}}{message}{{{{ end }}}}"
    user = f"{literal(frame.before_user)}{{{{ .Prompt }}}}{literal(frame.after_user)}"
    return f"{system}{user}{{{{ .Response }}}}{literal(frame.after_answer)}"


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame | None:
    """What the chat template of ``tokenizer`` writes around messages; None where it cannot be taken apart.

    The token that begins every text is left out where the tokenizer puts it there by itself: so does Ollama.
    """
    from jinja2 import TemplateError

    from kinject.prompts.templates import QuestionTemplate

    system, user, answer, again = "\ue000", "\ue001", "\ue002", "\ue003"  # private characters: no template writes them
    turns = [{"role": "user", "content": user}]
    later = [*turns, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]

    def render(messages: Sequence[dict[str, str]]) -> str:
        text: Any = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return str(text)

    begin = tokenizer.bos_token or ""
    if not begin or tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        begin = ""
    alone = render(turns).removeprefix(begin)
    if alone.count(user) != 1:
        return None
    head, after_user = alone.split(user)
    conversation = render(later)
    if any(conversation.count(each) != 1 for each in (user, answer, again)):
        return None
    between = conversation[conversation.index(answer) + 1 : conversation.index(again)]
    end: Any = tokenizer.convert_ids_to_tokens(QuestionTemplate(tokenizer).end_ids[0])
    after_answer, ended, rest = between.partition(str(end))
    if not ended:
        return None
    before_user = rest.lstrip()
    after_answer += ended + rest[: len(rest) - len(before_user)]
    if not head.endswith(before_user):
        return None
    try:
        both = render([{"role": "system", "content": system}, *turns]).removeprefix(begin)
    except TemplateError:
        both = ""
    if both.count(system) == both.count(user) == 1 and both.index(system) < both.index(user):
        before_system, rest = both.split(system)
        middle, tail = rest.split(user)
        default = head.removeprefix(before_system).removesuffix(middle)
        given = head == f"{before_system}{default}{middle}"
        if tail == after_user and middle.endswith(before_user) and (given or head == before_user):
            after_system = middle.removesuffix(before_user)
            return Frame(before_system, after_system, default if given else "", before_user, after_user, after_answer)
    return Frame(None, None, "", before_user, after_user, after_answer) if head == before_user else None
