"""How a masked diffusion model is asked, as options of the recipes and the command line. Free of heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from kinject.sampling import SamplingConfig

SAMPLINGS = ("fast", "published")


@dataclass
class SamplingArguments:
    """How masked diffusion models fill in an answer. Autoregressive models are asked greedily, whatever these say."""

    sampling: str = field(
        default="fast",
        metadata={
            "help": "'fast': blocks from left to right, several sure tokens at once, done at the end token; 'published': "
            "LLaDA's algorithm, which the paper uses: so many steps for each answer.",
            "choices": ["fast", "published"],
        },
    )
    sampling_steps: int | None = field(
        default=None, metadata={"help": "Steps for a whole answer. Default: one for each token of the longest answer."}
    )
    block_length: int = field(
        default=4,
        metadata={"help": "Tokens of a block; with --sampling published, max_new_tokens is a multiple of it."},
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
        from kinject.sampling import SamplingConfig

        steps = self.sampling_steps
        try:
            if self.sampling == "published":
                return SamplingConfig.published(answer_length, steps or answer_length, self.block_length)
            return SamplingConfig.fast(answer_length, self.block_length, steps=steps)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"--max_new_tokens {answer_length}, --sampling_steps {steps}, --block_length {self.block_length}: {error}"
            ) from error
