"""Settings of fine-tuning masked diffusion models. Knows nothing of how noise is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from kinject.errors import ConfigurationError
from kinject.trainers.document_config import CorruptionSFTConfig

Normalization = Literal["maskable", "sequence", "paper"]
Weighting = Literal["1/p", "none"]
NoiseScope = Literal["row", "block"]


@dataclass
class DiffusionSFTConfig(CorruptionSFTConfig):
    """Configuration of [`DiffusionSFTTrainer`]: how documents are noised, and how the loss is weighted.

    The defaults are LLaDA's (arXiv 2502.09992) except for the normalization. Those of arXiv 2510.09885 are
    `mask_ratio="uniform(0.05, 0.95)"`, `mask_ratio_per="batch"`, `normalize="paper"`.
    """

    objective: ClassVar[str] = "diffusion"

    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Peak learning rate. Default: 1e-4 for adapters and below a billion parameters, else 1e-5, the paper's."
        },
    )
    mask_ratio: str = field(
        default="uniform(0, 1)",
        metadata={
            "help": "Law of the noise level t: uniform(low, high), fixed(value), linear(start, end) over training, or "
            "stratified(low, high): the levels of each document are spread evenly over its epochs."
        },
    )
    normalize: str = field(
        default="maskable",
        metadata={
            "help": "What the weighted loss is divided by: 'maskable', the number of tokens that could have been hidden in "
            "the whole accumulated batch; 'sequence', that number in each sample, then the mean over samples (LLaDA); "
            "'paper', as 'sequence' with p = t instead of LLaDA's p = .999 t + .001.",
            "choices": ["maskable", "sequence", "paper"],
        },
    )
    frame: str = field(
        default="raw",
        metadata={
            "help": "Around plain documents: 'raw': BOS, the document, EOS, as in the paper; 'chat': user 'Tell me a fact.', "
            "assistant the document.",
            "choices": ["raw", "chat"],
        },
    )
    end_padding: bool = field(
        default=False,
        metadata={
            "help": "Fill samples up to the longest of their batch with end-of-text tokens that are attended to and learned "
            "(LLaDA), instead of padding that is neither. A sample then depends on its batch."
        },
    )
    weighting: str | None = field(
        default=None,
        metadata={
            "help": "What the loss of a hidden token is multiplied by: '1/p', which bounds the likelihood, or 'none': the mean "
            "over hidden tokens. Default: 1/p, and none with --complementary.",
            "choices": ["1/p", "none"],
        },
    )
    complementary: bool = field(
        default=False,
        metadata={
            "help": "Put each sample into its batch twice, the second time with the other tokens hidden, so that every token "
            "is learned once (Fast-dLLM v2). Without weights, and with twice the rows."
        },
    )
    to_diffusion: bool | Literal["block"] = field(
        default=False,
        metadata={
            "help": "Turn an autoregressive model into a masked diffusion model first; a model that already is one stays as it "
            "is. 'block' makes any model a block diffusion model, which attends both ways within a block and back to the "
            "blocks before it, and answers with a cache.",
            "choices": ["true", "false", "block"],
        },
    )
    block_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a block, in training and answering of block diffusion models. Default: the model's own, else 4. "
            "Other masked diffusion models only answer in blocks; with --sampling published, max_new_tokens is a multiple of "
            "it."
        },
    )
    noise_per: str = field(
        default="row",
        metadata={
            "help": "Block diffusion: one noise level for each 'row', or for each 'block' of it (Fast-dLLM v2).",
            "choices": ["row", "block"],
        },
    )
    clean_attention: str | None = field(
        default=None,
        metadata={
            "help": "Block diffusion: whether the text before a block attends both ways within its own blocks ('block'), or "
            "only backwards ('causal'); then it also learns to predict the next token, and the diffusion loss counts 0.3 "
            "(Nemotron). Default: the model's own, else block.",
            "choices": ["block", "causal"],
        },
    )
    shifted_logits: bool | None = field(
        default=None,
        metadata={
            "help": "With --to_diffusion: whether the logits at i go on predicting token i + 1 (Dream: true), or predict token "
            "i (LLaDA: false). Default: true."
        },
    )
    mask_token: str | None = field(
        default=None,
        metadata={
            "help": "Mask token by name, where the model names none. Default, with --to_diffusion: the tokenizer's own, else a "
            "reserved or unused token."
        },
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices and values out of range before anything is loaded."""
        super().__post_init__()
        self.require_choices(
            normalize=get_args(Normalization),
            frame=("raw", "chat"),
            noise_per=get_args(NoiseScope),
            **({} if self.weighting is None else {"weighting": get_args(Weighting)}),
            **({} if self.clean_attention is None else {"clean_attention": ("block", "causal")}),
        )
        if self.to_diffusion not in (True, False, "block"):
            raise ConfigurationError(f"to_diffusion is {self.to_diffusion!r}; expected true, false or block.")
        if self.complementary and self.weighting == "1/p":
            raise ConfigurationError(
                "weighting is '1/p' beside complementary, which shows every token hidden once: weights would count some twice. "
                "Leave one of the two out."
            )
        if self.noise_per == "block" and self.mask_ratio_per == "batch":
            raise ConfigurationError(
                "noise_per is 'block' and mask_ratio_per is 'batch': a noise level belongs to a block or to a batch. Leave one "
                "of the two out."
            )
        if self.block_length is not None and self.block_length < 1:
            raise ConfigurationError(f"block_length is {self.block_length}; expected 1 or more tokens.")
        if self.router_aux_loss_coef is not None:
            raise ConfigurationError(
                f"router_aux_loss_coef is {self.router_aux_loss_coef}, and would have no effect: the bound on the "
                "likelihood has no such term. Leave it out."
            )
        if self.anchor:
            raise ConfigurationError(
                f"anchor is {self.anchor}, and is not supported: a diffusion model's predictions depend on what is hidden. "
                "Leave it out; --rehearsal keeps what was known."
            )
        if self.label_smoothing_factor or self.loss_type == "dft":
            raise ConfigurationError(
                "label_smoothing_factor and loss_type dft are not supported: they would change the bound on the "
                "likelihood that this objective is. Leave both out."
            )

    def conversion_options(self) -> dict[str, Any]:
        """Options of [`load_model`] by which it loads a masked diffusion model, or turns a model into one."""
        names = ("to_diffusion", "mask_token", "shifted_logits", "block_length", "clean_attention")
        return {name: getattr(self, name) for name in names}
