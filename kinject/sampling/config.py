"""How a masked diffusion model is asked: the settings of the sampler, and the same as options of the command line.

Knows nothing of tensors, and imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kinject.errors import ConfigurationError


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of `sample` and `infill`.

    An answer begins as masks. Every step predicts them all and commits the most probable tokens of the current block (LLaDA's
    low-confidence remasking); a committed token is never masked again. `SamplingConfig.published` is LLaDA's algorithm to
    the letter; questions are asked with `SamplingConfig.fast` by default.

    Attributes:
        answer_length: Longest answer in tokens.
        steps: Steps for a whole answer, divided evenly among its blocks; None means one per token. A block of m masks
            and s steps commits m // s tokens a step, and one more in each of the first m % s.
        block_length: Blocks are filled from left to right, one after the other; None means one block.
        temperature: Of the Gumbel noise by which tokens are drawn; 0 takes the most probable.
        threshold: Also commit every token of the block whose probability is above this.
        edit_threshold: Replace a committed token of the current block where another one has a probability above this (LLaDA2.1,
            its public `generate`); None never does. A block is finished once a step without masks has changed nothing, or after
            16 such steps; only then its end tokens count.
        stop_at_end: A row is finished once it holds an end token with no mask before it. That never changes the tokens before
            the end token.
        exact: Follow the published code also in details: logits of every position, ties as `torch.topk` breaks them, and the
            mask token may be predicted (such a position stays masked).
        seed: The noise depends on this and the prompt, never on the batch.

    Raises:
        ConfigurationError: a value out of range, or lengths that do not divide.
    """

    answer_length: int = 128
    steps: int | None = None
    block_length: int | None = None
    temperature: float = 0.0
    threshold: float | None = None
    edit_threshold: float | None = None
    stop_at_end: bool = True
    exact: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the field values."""
        for name in ("answer_length", "steps", "block_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} is {value}, expected at least 1")
        if self.block_length is not None and self.answer_length % self.block_length:
            raise ConfigurationError(
                f"answer_length is {self.answer_length}, expected a multiple of block_length {self.block_length}, such as "
                f"{-(-self.answer_length // self.block_length) * self.block_length}"
            )
        if self.steps is not None and self.steps % self.blocks:
            raise ConfigurationError(
                f"steps is {self.steps}, expected a multiple of the {self.blocks} blocks that answer_length "
                f"{self.answer_length} and block_length {self.block_length} make; each block takes equally many"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ConfigurationError(f"temperature is {self.temperature}, expected a number from 0 (off) up")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigurationError(
                f"threshold is {self.threshold}, expected a probability above 0 and up to 1, or None to commit by steps"
            )
        if self.edit_threshold is not None and not 0 <= self.edit_threshold <= 1:
            raise ConfigurationError(
                f"edit_threshold is {self.edit_threshold}, expected a probability from 0 to 1, or None to replace nothing"
            )
        if self.edit_threshold is not None and self.exact:
            raise ConfigurationError(
                f"edit_threshold is {self.edit_threshold}, and the published algorithm never replaces a token. Leave it out, "
                "or take the fast one (--sampling fast)."
            )
        if not 0 <= self.seed < 2**64:
            raise ConfigurationError(f"seed is {self.seed}, expected an integer from 0 to 2**64 - 1")

    @property
    def block(self) -> int:
        """Tokens of a block."""
        return self.block_length or self.answer_length

    @property
    def blocks(self) -> int:
        """Blocks of a whole answer."""
        return self.answer_length // self.block

    @property
    def steps_per_block(self) -> int:
        """Steps after which a block is committed as a whole."""
        return self.block if self.steps is None else self.steps // self.blocks

    @classmethod
    def published(
        cls, answer_length: int = 128, steps: int = 128, block_length: int = 4, **others: Any
    ) -> SamplingConfig:
        """LLaDA's algorithm (arXiv 2502.09992, its public `generate`), token for token; defaults of arXiv 2510.09885.

        Every step evaluates the whole sequence, and an answer is never finished early. Two things differ: a block with fewer
        masks than steps takes no empty steps, and noise depends on `seed` and the prompt, so that it does not depend on the
        batch.
        """
        chosen = {"stop_at_end": False, "exact": True, **others}
        return cls(answer_length=answer_length, steps=steps, block_length=block_length, **chosen)

    @classmethod
    def fast(cls, answer_length: int = 128, block_length: int = 4, **others: Any) -> SamplingConfig:
        """The default settings for questions: the published order of blocks with fewer evaluations.

        All tokens that the model is sure of are committed at once, and a row stops at its end token. `answer_length` is
        rounded up to whole blocks.

        There is no cache of earlier blocks: with attention in both directions its keys are outdated as soon as a token is
        committed, and answers of 20-30 tokens have too few blocks for it to pay (Fast-dLLM, issue 81).
        """
        block = max(block_length, 1)
        chosen = {"threshold": _SURE, **others}
        return cls(answer_length=-(-answer_length // block) * block, block_length=block_length, **chosen)


# Fast-dLLM (arXiv 2505.22618) takes .9. With nano-diffusion that changes two answers in a hundred; .99 changes hardly any, at
# the cost of one more evaluation for each answer.
_SURE = 0.99
_BLOCK = 4  # tokens of a block by default


# The same as options of the recipes and the command line.

SAMPLINGS = ("fast", "published")


@dataclass
class SamplingArguments:
    """How masked diffusion models fill in an answer. They do not apply to autoregressive models, which answer greedily."""

    sampling: str = field(
        default="fast",
        metadata={
            "help": "'fast': blocks from left to right, all tokens at once that the model is sure of, until the end token; "
            "'published': LLaDA's algorithm, which the paper uses: sampling_steps steps for every answer.",
            "choices": ["fast", "published"],
        },
    )
    sampling_steps: int | None = field(
        default=None, metadata={"help": "Steps for a whole answer. Default: one for each token of the longest answer."}
    )
    edit_threshold: float | None = field(
        default=None,
        metadata={
            "help": "Replace a written token of the current block where the model gives another one a probability above this, "
            "as LLaDA2.1 does (.9). Default: written tokens stay."
        },
    )
    block_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a block; with --sampling published, max_new_tokens is a multiple of it. Default: 4; block "
            "diffusion models always use their own."
        },
    )

    def __post_init__(self) -> None:
        """Refuse an unknown way of sampling before anything is loaded."""
        if self.sampling not in SAMPLINGS:
            raise ConfigurationError(f"sampling is '{self.sampling}'; expected one of {', '.join(SAMPLINGS)}.")

    def sampling_config(self, answer_length: int) -> SamplingConfig:
        """The settings of the sampler for answers of up to ``answer_length`` tokens.

        Raises:
            ConfigurationError: lengths or steps that do not divide.
        """
        steps, block_length = self.sampling_steps, self.block_length or _BLOCK
        try:
            if self.sampling == "published":
                return SamplingConfig.published(
                    answer_length, steps or answer_length, block_length, edit_threshold=self.edit_threshold
                )
            return SamplingConfig.fast(answer_length, block_length, steps=steps, edit_threshold=self.edit_threshold)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"--max_new_tokens {answer_length}, --sampling_steps {steps}, --block_length {block_length}: {error}"
            ) from error

    def require_blocks_of(self, block_length: int | None) -> None:
        """Refuse to ask a model in other blocks than its own ``block_length`` (None: it has no blocks).

        Raises:
            ConfigurationError: the two differ.
        """
        if None not in (block_length, self.block_length) and block_length != self.block_length:
            raise ConfigurationError(
                f"block_length is {self.block_length}, and the model answers in blocks of {block_length}, which it was trained "
                "in. Leave --block_length out."
            )
