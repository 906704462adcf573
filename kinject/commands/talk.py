"""Tries a trained model: a list of questions, a conversation in the terminal, or a page, each beside its base if asked.

The page is built with gradio (extra `app`), which is imported when one is made. Scores and trains nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from kinject.data.converting import DOCUMENT_KINDS
from kinject.data.knowledge import names
from kinject.data.records import ROW_KINDS, file_kind
from kinject.data.words import fold_case, words_of
from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.models.names import adapter_settings, base_of_adapter, is_repository

if TYPE_CHECKING:
    from gradio import Blocks
    from rich.console import Console

    from kinject.models import LoadedModel
    from kinject.sampling import Step

HELP = """\
/base   show the answers of the base model as well; once more: hide them
/new    begin a new conversation, and forget what was said
/help   show this list
/quit   end (as does the end of input)"""


def typed_questions(questions: Sequence[str], file: str | None) -> list[str]:
    """The ``questions`` of a command line, and those of ``file``, one a line; `-` is standard input if it is piped.

    Raises:
        ConfigurationError: there are none.
        DataError: the file cannot be read.
    """
    asked = [question for question in questions if question != "-"]
    if file is not None and file != "-":
        if file_kind(Path(file)) in ROW_KINDS + DOCUMENT_KINDS:
            raise DataError(
                f"{file}: expected plain text with one question a line. Rows of questions with their answers are asked by "
                f"kinject eval MODEL --questions {file}"
            )
        try:
            asked += Path(file).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read ({error.strerror}); name a file with one question a line."
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 ({error.reason}); save it as UTF-8, one question a line.") from error
    elif "-" in (file, *questions) and not sys.stdin.isatty():
        asked += sys.stdin.read().splitlines()
    asked = [question.strip() for question in asked if question.strip()]
    if not asked:
        raise ConfigurationError("no questions; give some, name a file with --file, or pipe them in, one a line.")
    return asked


def base_of(name: str) -> str:
    """The model that the run in directory or Hub repository ``name`` started from.

    Raises:
        ConfigurationError: nothing there names it.
    """
    settings = adapter_settings(Path(name))
    if settings is not None:
        return base_of_adapter(settings, Path(name).name)
    results = Path(name) / "results.json"
    if results.is_file():
        return str(json.loads(results.read_text(encoding="utf-8"))["model"])
    if not is_repository(name):
        raise ConfigurationError(
            f"--base: {name} holds no adapter_config.json or results.json that names its base model."
        )
    from kinject.commands.evaluate import require_claim
    from kinject.models.adapters import adapter_config

    adapter = adapter_config(name)
    return base_of_adapter(adapter, name) if adapter else str(require_claim(name).results["model"])


def answers_of(
    models: Mapping[str, tuple[str, str | None]],
    questions: Sequence[str],
    *,
    max_new_tokens: int = 128,
    system_prompt: str | None = None,
    show: bool = False,
) -> dict[str, list[str]]:
    """The answers of several models to ``questions``, by the label of the model.

    Args:
        models: Name and revision of each, by label.
        questions: What is asked.
        max_new_tokens: Longest answer, in tokens.
        system_prompt: System message; None leaves it to the chat template.
        show: Whether to draw how a masked diffusion model fills in its answers.
    """
    from rich.console import Console

    from kinject.evaluation.asking import answer_questions
    from kinject.models.devices import described
    from kinject.models.loading import load

    answers = {}
    for label, (name, revision) in models.items():
        loaded = load(name, revision=revision)
        print(f"{name} on {described(loaded.model)}", file=sys.stderr)
        answers[label] = answer_questions(
            loaded.model,
            loaded.tokenizer,
            questions,
            max_new_tokens=max_new_tokens,
            system_prompt=system_prompt,
            watch=_drawer(Console(soft_wrap=True), loaded, label) if show else None,
        )
    return answers


def print_answers(questions: Sequence[str], answers: Mapping[str, Sequence[str]], *, as_json: bool = False) -> None:
    """Print each question with its answer by every label, for people or as JSON."""
    if as_json:
        rows = [
            {"question": question, **{label: given[index] for label, given in answers.items()}}
            for index, question in enumerate(questions)
        ]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    from rich.console import Console
    from rich.markup import escape as escape_markup

    console = Console(soft_wrap=True)
    for index, question in enumerate(questions):
        console.print(f"[bold]{escape_markup(question)}[/bold]")
        for label, given in answers.items():
            console.print(f"  {label}: {escape_markup(given[index])}")


def _drawer(console: Console, loaded: LoadedModel, label: str) -> Callable[[str, Sequence[Step]], None]:
    """A function that draws how ``loaded`` fills in its answer to a question.

    Raises:
        ConfigurationError: the model is no masked diffusion model that unmasks step by step.
    """
    from rich.markup import escape as escape_markup

    from kinject.evaluation.report import draw_unmasking
    from kinject.models.diffusion import diffusion_settings, is_diffusion, refuse_canvases

    refuse_canvases(loaded.model, "show step by step")
    if not is_diffusion(loaded.model):
        raise ConfigurationError(
            f"--show: {loaded.name} is autoregressive, it writes from left to right; only masked diffusion models unmask."
        )
    mask_token_id = diffusion_settings(loaded.model).mask_token_id

    def draw(question: str, steps: Sequence[Step]) -> None:
        console.print(f"[bold]{escape_markup(question)}[/bold] ({label}, {len(steps)} steps)")
        draw_unmasking(console, loaded.tokenizer, steps, mask_token_id)

    return draw


@dataclass
class Conversation:
    """Several turns with a model, and beside it with the model it came from once that is asked for.

    Args:
        loaded: The trained model.
        load_base: Loads the one it came from.
        max_new_tokens: Longest answer, in tokens.
        system_prompt: System message; None leaves it to the chat template.
        beside: Whether the base model answers too.
    """

    loaded: LoadedModel
    load_base: Callable[[], LoadedModel]
    max_new_tokens: int = 128
    system_prompt: str | None = None
    beside: bool = False
    _base: LoadedModel | None = None
    _turns: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {"after": [], "before": []})

    def say(self, text: str) -> list[tuple[str, str]]:
        """What each model answers to ``text`` after what was said before: (label, answer).

        Each model remembers the turns that it answered itself; turns during which the base was hidden it does not know.

        Raises:
            KinjectError: the conversation is too long for the model, or the base cannot be loaded.
        """
        from kinject.evaluation.asking import answer_questions

        models = {"after": self.loaded}
        if self.beside:
            self._base = self._base or self.load_base()
            models = {"before": self._base, "after": self.loaded}
        answers = []
        for label, model in models.items():
            (answer,) = answer_questions(
                model.model,
                model.tokenizer,
                [text],
                max_new_tokens=self.max_new_tokens,
                examples=self._turns[label],
                system_prompt=self.system_prompt,
            )
            answers.append((label, answer))
        for label, answer in answers:
            self._turns[label].append((text, answer))
        return answers if self.beside else [("", answers[0][1])]

    def forget(self) -> None:
        """Begin anew."""
        for turns in self._turns.values():
            turns.clear()


def converse(conversation: Conversation, lines: Iterable[str], show: Callable[[str], None]) -> None:
    """Answer ``lines`` until they end or say /quit; what cannot be answered is explained, and the conversation goes on."""
    for line in lines:
        text = line.strip()
        if text in ("/quit", "/exit"):
            return
        if text == "/base":
            conversation.beside = not conversation.beside
            show(
                "both models answer from now on"
                if conversation.beside
                else "only the trained model answers from now on"
            )
        elif text == "/new":
            conversation.forget()
            show("a new conversation")
        elif text.startswith("/"):
            show(HELP if text == "/help" else f"{text.split()[0]} is no command\n{HELP}")
        elif text:
            try:
                for label, answer in conversation.say(text):
                    show(f"{label + ': ' if label else ''}{answer}")
            except KinjectError as error:
                show(f"error: {error}\n/new begins a new conversation, /base stops asking the base model")


def terminal_lines() -> Iterable[str]:
    """What is typed, line by line, until the end of input."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return


# A page in the browser: the trained model beside its base, and the documents that hold the answer.

_SHOWN = 5  # documents that hold an answer
_EXAMPLES = 8
_STYLE = (
    ".kinject-document { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; margin: .5em 0; }"
    ".kinject-steps { font-family: monospace; white-space: pre-wrap; } .kinject-steps .hidden { opacity: .4; }"
)


@dataclass(frozen=True)
class Answered:
    """What both models say to a question.

    Attributes:
        after: The trained model's answer.
        before: That of the model it came from; "" where there is none.
        steps: How a masked diffusion model unmasked ``after``; else empty.
    """

    after: str
    before: str
    steps: Sequence[Step] = ()


def ask_both(
    trained: LoadedModel,
    base: LoadedModel | None,
    question: str,
    *,
    max_new_tokens: int = 128,
    system_prompt: str | None = None,
) -> Answered:
    """The answers of both models to ``question``, each asked in its own frame.

    Raises:
        KinjectError: the question is too long for the model.
    """
    from kinject.evaluation.asking import answer_questions

    unmasked: list[Step] = []

    def watch(_: str, steps: Sequence[Step]) -> None:
        unmasked.extend(steps)

    said = []
    for model in (trained, base):
        if model is None:
            said.append("")
            continue
        (answer,) = answer_questions(
            model.model,
            model.tokenizer,
            [question],
            max_new_tokens=max_new_tokens,
            system_prompt=system_prompt,
            watch=watch if model is trained and model.is_diffusion else None,
        )
        said.append(answer)
    return Answered(said[0], said[1], unmasked)


def holding_documents(answer: str, documents: Sequence[str]) -> list[str]:
    """The documents that name ``answer``, or else the one that has most of its words, if it has half of them."""
    if not words_of(answer):
        return []
    named = [text for text in documents if names(text, answer)]
    if named:
        return named
    said = set(words_of(answer))
    shares = {text: len(said & set(words_of(text))) / len(said) for text in documents}
    best = max(shares, key=lambda text: shares[text], default=None)
    return [best] if best is not None and shares[best] >= 0.5 else []


def marked(text: str, answer: str) -> Markup:
    """``text`` as HTML with ``answer`` marked where it stands, ignoring case."""
    folded, sought = fold_case(text), fold_case(answer.strip().rstrip("."))
    start = folded.find(sought) if sought and len(folded) == len(text) else -1  # some letters fold to two
    if start < 0:
        return escape(text)
    end = start + len(sought)
    return Markup("{}<mark>{}</mark>{}").format(text[:start], text[start:end], text[end:])


def documents_html(answer: str, documents: Sequence[str]) -> str:
    """The documents that hold ``answer``, as HTML."""
    found = holding_documents(answer, documents)
    if not found:
        return str(escape("No document holds this answer." if documents else "The results do not hold the documents."))
    more = len(found) - _SHOWN
    shown = [
        Markup('<div class="kinject-document" dir="auto">{}</div>').format(marked(text, answer))
        for text in found[:_SHOWN]
    ]
    return "".join(map(str, shown)) + (f"and {more} more" if more > 0 else "")


def steps_html(steps: Sequence[Step], tokenizer: Any, mask_token_id: int) -> str:
    """Every step of an unmasking in a line, as HTML: what is hidden as boxes, what the step filled marked."""
    from kinject.evaluation.report import step_parts

    forms = {"hidden": Markup('<span class="hidden">{}</span>'), "new": Markup("<mark>{}</mark>"), "old": Markup("{}")}
    lines = [
        Markup("{:>3} ").format(number)
        + Markup("").join(forms[kind].format(text) for kind, text in step_parts(tokenizer, step, mask_token_id))
        for number, step in enumerate(steps, 1)
    ]
    return (
        str(Markup('<div class="kinject-steps" dir="auto">{}</div>').format(Markup("<br>").join(lines)))
        if lines
        else ""
    )


def build(
    name: str,
    trained: LoadedModel,
    base: LoadedModel | None,
    results: Mapping[str, Any] | None,
    *,
    max_new_tokens: int = 128,
) -> Blocks:
    """The page, not yet served.

    Args:
        name: Of the model, as a heading.
        trained, base: The models; ``base`` may be None.
        results: What `results.json` says of the run: the documents, and questions to try.

    Raises:
        ConfigurationError: gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it would ask the network
    try:
        import gradio
    except ImportError as error:
        raise ConfigurationError("kinject app needs gradio. Run: pip install 'kinject[app]'") from error
    from kinject.models.diffusion import diffusion_settings

    known = results or {}
    documents = [str(each["text"]) for each in known.get("learned", ())] or list(
        map(str, known.get("document_texts", ()))
    )
    tried = [[str(each["question"])] for each in known.get("answers", ())]
    system_prompt = (known.get("config") or {}).get("system_prompt")

    def respond(question: str) -> tuple[str, str, str, str]:
        if not question.strip():
            return "", "", "", ""
        try:
            said = ask_both(trained, base, question, max_new_tokens=max_new_tokens, system_prompt=system_prompt)
        except KinjectError as error:
            raise gradio.Error(str(error)) from error
        steps = ""
        if said.steps:
            steps = steps_html(said.steps, trained.tokenizer, diffusion_settings(trained.model).mask_token_id)
        return said.after, said.before, documents_html(said.after, documents), steps

    with gradio.Blocks(title=f"kinject: {name}", analytics_enabled=False) as page:
        gradio.HTML(str(Markup("<h1>{}</h1>").format(name)))
        question = gradio.Textbox(label="Question", elem_id="question")
        button = gradio.Button("Ask", variant="primary", elem_id="ask")
        with gradio.Row():
            after = gradio.Textbox(label="Trained", interactive=False, elem_id="after", lines=3)
            before = gradio.Textbox(
                label="Before training", interactive=False, elem_id="before", lines=3, visible=base is not None
            )
        gradio.HTML("<h3>Documents that hold the answer</h3>")
        held = gradio.HTML(elem_id="held")
        with gradio.Accordion("Unmasking, step by step", open=True, visible=trained.is_diffusion):
            steps = gradio.HTML(elem_id="steps")
        asking: dict[str, Any] = {"fn": respond, "inputs": question, "outputs": [after, before, held, steps]}
        button.click(**asking)
        question.submit(**asking)
        if tried:
            gradio.Examples(tried[:: max(1, len(tried) // _EXAMPLES)][:_EXAMPLES], question)
        if documents:
            with gradio.Accordion(f"All {len(documents)} documents", open=False):
                gradio.HTML(
                    "".join(
                        str(Markup('<div class="kinject-document" dir="auto">{}</div><hr>').format(text))
                        for text in documents
                    )
                )
    blocks: Blocks = page
    return blocks


def serve(
    page: Blocks, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False, **options: Any
) -> Any:
    """Serve ``page`` at ``host``, from the next free port on; returns what gradio's `launch` does.

    Raises:
        ConfigurationError: the port is taken.
    """
    from gradio.themes import Base

    plain = ["system-ui", "sans-serif"]  # gradio's own would come from the network
    try:
        return page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=Base(font=plain, font_mono=["monospace"]),
            css=_STYLE,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            **options,
        )
    except OSError as error:
        raise ConfigurationError(f"the page cannot be served: {error}. Name another port with --port.") from error


def serve_model(
    name: str,
    load_base: Callable[[], LoadedModel | None],
    *,
    revision: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    max_new_tokens: int = 128,
) -> None:
    """`kinject app`: load ``name`` and what it came from, and serve the page until it is stopped."""
    from kinject.commands.evaluate import find_claim
    from kinject.models.loading import load

    claim = find_claim(name, revision=revision)
    results = None if claim is None else claim.recorded
    page = build(name, load(name, revision=revision), load_base(), results, max_new_tokens=max_new_tokens)
    serve(page, host=host, port=port, share=share)
