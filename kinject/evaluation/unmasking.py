"""Draws in the terminal how a masked diffusion model fills in an answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from kinject.sampling import Step

_MASK = "░"
_MASK_STYLE, _NEW_STYLE = "dim", "bold reverse green"
_SECONDS_A_STEP = 0.12


def draw_unmasking(
    console: Console, tokenizer: PreTrainedTokenizerBase, steps: Sequence[Step], mask_token_id: int
) -> None:
    """Play ``steps`` in a terminal; elsewhere print a line for each."""
    if not console.is_terminal:
        for number, step in enumerate(steps, 1):
            console.print(Text(f"  {number:>3} ") + draw_step(tokenizer, step, mask_token_id))
        return
    with Live(console=console, auto_refresh=False) as live:
        for number, step in enumerate(steps, 1):
            live.update(Text(f"  {number:>3} ") + draw_step(tokenizer, step, mask_token_id), refresh=True)
            time.sleep(_SECONDS_A_STEP)


def draw_step(tokenizer: PreTrainedTokenizerBase, step: Step, mask_token_id: int) -> Text:
    """One line: masks as shaded boxes, what the step committed highlighted."""
    drawn = Text()
    for masked, group in groupby(enumerate(step.ids), key=lambda placed: placed[1] == mask_token_id):
        if drawn and not drawn.plain.endswith(" "):
            drawn.append(" ")
        run = list(group)  # (place, token)
        if masked:
            drawn.append(_MASK * len(run), _MASK_STYLE)
            continue
        shown = ""
        for count, (place, _) in enumerate(run, 1):
            # What a token adds to the tokens before it: spaces and letters of several tokens are the decoder's.
            text = str(tokenizer.decode([token for _, token in run[:count]])).replace("\n", "⏎")
            if text.endswith("\ufffd") and count < len(run):
                continue  # part of a letter
            drawn.append(text[len(shown) :], _NEW_STYLE if place in step.committed else None)
            shown = text
    return drawn
