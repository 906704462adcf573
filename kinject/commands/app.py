"""The page to try a trained model on: its answer beside that of the model it came from, and the documents that hold it.

Built with gradio (extra `app`), which is imported when a page is made. Knows nothing of training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from kinject.data.knowledge import names
from kinject.data.words import fold_case, words_of
from kinject.errors import ConfigurationError, KinjectError

if TYPE_CHECKING:
    from gradio import Blocks

    from kinject.models import LoadedModel
    from kinject.sampling import Step

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
    """``text`` as HTML in which ``answer`` stands out, where it stands there in these letters, whatever their case."""
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
    lines = []
    for number, step in enumerate(steps, 1):
        committed = set(step.committed)
        parts = []
        kinds = [
            ("hidden" if token == mask_token_id else "new" if place in committed else "old", token)
            for place, token in enumerate(step.ids)
        ]
        for kind, group in groupby(kinds, key=lambda each: each[0]):
            tokens = [token for _, token in group]
            text = "░" * len(tokens) if kind == "hidden" else str(tokenizer.decode(tokens, skip_special_tokens=True))
            form = {"hidden": '<span class="hidden">{}</span>', "new": "<mark>{}</mark>", "old": "{}"}[kind]
            parts.append(Markup(form).format(text) if text else Markup(""))
        lines.append(Markup("{:>3} ").format(number) + Markup(" ").join(parts))
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
        question = gradio.Textbox(label="Question", elem_id="question", autofocus=True)
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


def run(
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
