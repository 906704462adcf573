"""Fine-tuning of masked diffusion models (LLaDA, arXiv 2502.09992, section 2), also of those that attend in blocks.

Settings, batches and trainer stand together, since the loss reads every entry of a batch. Knows nothing of checkpoints and the
Hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch

from kinject import compat
from kinject.corruption import MASK_STREAM, PADDING_STREAM, block_seed, draw_mask, parse_mask_ratio
from kinject.errors import ConfigurationError
from kinject.models import load_model
from kinject.models.adapters import write_diffusion_settings
from kinject.models.diffusion import (
    Tokens,
    attend_in_blocks,
    block_mask,
    diffusion_settings,
    is_diffusion,
    refuse_canvases,
    text_config,
    to_diffusion,
)
from kinject.prompts.encoding import end_of_text_id
from kinject.prompts.templates import ANSWER, FACT, IGNORED, RAW_FROM_BEGIN, Wording, resolve_mask_token
from kinject.trainers.collator import DocumentCollator, Masking, padded
from kinject.trainers.document_config import CorruptionSFTConfig, DocumentSFTConfig
from kinject.trainers.document_trainer import DocumentSFTTrainer
from kinject.trainers.positions import token_scores

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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


# The eps of LLaDA's forward process, p = (1 - eps) t + eps, which bounds the weight 1 / p (arXiv 2502.09992; its public
# GUIDELINES.md, `forward_process`).
_LEAST_PROBABILITY = 1e-3
# Weight of the diffusion loss beside the loss of next tokens (Nemotron-Labs-Diffusion, as NeMo Automodel trains it).
_BESIDE_NEXT_TOKENS = 0.3


# Batches: rows with the noise of each drawn, as a pure function of (seed, epoch, sample).
#
# A block diffusion model learns a row as [N | C]: the noisy copy N, and the clean copy C that the blocks of N attend to. That
# takes 2 L positions for a row of L tokens, so what no loss depends on is left out: blocks of N in which nothing is hidden,
# and C from the last block of N on. The loss stays the same.


@dataclass(frozen=True)
class Noised:
    """A row whose noise is drawn: a prompt, then tokens that may be hidden, `length` in all.

    Attributes:
        clean: Its token ids, `(length,)`.
        hidden: Which of them are hidden, `(length,)`.
        ratio: The probability p with which each is hidden, `(length,)`; 0 for the prompt.
        maskable: How many may be hidden: all after the prompt.
    """

    clean: list[int]
    hidden: list[bool]
    ratio: list[float]
    maskable: int

    @property
    def mean_ratio(self) -> float:
        """The mean of p over the tokens that may be hidden."""
        own = self.ratio[-self.maskable :]
        return own[0] if own.count(own[0]) == len(own) else sum(own) / len(own)

    def complement(self) -> Noised:
        """The same row with what was visible hidden, and the other way round."""
        start = len(self.clean) - self.maskable
        hidden = [position >= start and not flag for position, flag in enumerate(self.hidden)]
        return Noised(self.clean, hidden, [1 - p if p else 0.0 for p in self.ratio], self.maskable)


@dataclass
class DiffusionCollator(DocumentCollator):
    """Collates the rows that `DocumentCollator` takes; `masking` says how noise is drawn.

    Args:
        eps: A token is hidden with probability p = (1 - eps) t + eps (LLaDA, arXiv 2502.09992, section 2).
        end_padding_id: Fills rows up to the longest with this token, which is attended to and may be hidden; None pads with
            tokens that are neither.
        complementary: Put after each row the same row with the other tokens hidden (Fast-dLLM v2, arXiv 2509.26328).

    Returns a dict with `input_ids` (noised), `attention_mask`, `labels` (not shifted, -100 where nothing is hidden), each
    `(batch, length)`, `mask_ratio` (p) and `maskable` (the number of tokens that could have been hidden), each `(batch,)`.
    """

    eps: float = 0.0
    end_padding_id: int | None = None
    complementary: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate ``rows``."""
        noised = self._noised(rows)
        return self.lay_out(
            [each for row in noised for each in ((row, row.complement()) if self.complementary else (row,))]
        )

    def _noised(self, rows: Sequence[Mapping[str, Any]]) -> list[Noised]:
        ratios = [(1 - self.eps) * t + self.eps for t in self._ratios(rows)]
        frames = [self._frame(row) for row in rows]
        prompts = [[*frame.before, *frame.between] for frame in frames]
        answers = [[*row["document_ids"], *frame.after] for row, frame in zip(rows, frames, strict=True)]
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        noised = []
        for index, ends in enumerate(self._ends(lengths)):
            prompt, answer = prompts[index], answers[index]
            hidden, ratio = self._hide(rows[index], ratios[index], len(prompt), len(answer), ends)
            clean = [*prompt, *answer, *[self.end_padding_id or 0] * ends]
            noised.append(
                Noised(clean, [False] * len(prompt) + hidden, [0.0] * len(prompt) + ratio, len(answer) + ends)
            )
        return noised

    def _ends(self, lengths: Sequence[int]) -> list[int]:
        """The number of end-of-text tokens that each row, of these ``lengths``, is filled up with."""
        if self.end_padding_id is None:
            return [0] * len(lengths)
        longest = self._padded_length(lengths)
        return [longest - length for length in lengths]

    def _hide(
        self, row: Mapping[str, Any], ratio: float, start: int, answer: int, ends: int
    ) -> tuple[list[bool], list[float]]:
        """Which tokens after a prompt of ``start`` are hidden, and with which probability each: ``answer``, then ``ends``."""
        assert self.masking is not None
        words, unit = self._words(row, answer), self.masking.unit
        hidden = draw_mask(answer, ratio, self._generator(row, MASK_STREAM), unit, words).tolist()
        if ends:
            hidden += draw_mask(ends, ratio, self._generator(row, PADDING_STREAM)).tolist()
        return hidden, [ratio] * (answer + ends)

    def lay_out(self, noised: Sequence[Noised]) -> dict[str, torch.Tensor]:
        """The batch of rows whose noise is drawn; see the class for its entries."""
        assert self.masking is not None
        length = self._padded_length([len(each.clean) for each in noised])
        input_ids = padded([each.clean for each in noised], length, self.pad_token_id)
        is_hidden = padded([each.hidden for each in noised], length, False).bool()
        return {
            "input_ids": input_ids.masked_fill(is_hidden, self.masking.mask_token_id),
            "attention_mask": padded([[1] * len(each.clean) for each in noised], length, 0),
            "labels": input_ids.masked_fill(~is_hidden, IGNORED),
            "mask_ratio": torch.tensor([each.mean_ratio for each in noised]),
            "maskable": torch.tensor([each.maskable for each in noised]),
            **({"supervised": torch.stack(is_hidden.nonzero(as_tuple=True))} if self.indexed else {}),
        }

    @staticmethod
    def _words(row: Mapping[str, Any], length: int) -> list[int] | None:
        """The word of each of the ``length`` tokens of an answer, where they are hidden by words."""
        words = row.get("word_ids")
        if words is not None:  # each token of the end of the turn is a word of its own
            words = [*words, *range(words[-1] + 1, words[-1] + 1 + length - len(words))]
        return words


@dataclass
class BlockCollator(DiffusionCollator):
    """Collates rows for a block diffusion model, each filled up to whole blocks with ends of text that may be hidden.

    Args:
        block_length: Tokens of a block, counted from the beginning of the row.
        noise_per: `row`: one probability of being hidden for the whole row; `block`: one for each block.
        shifted: Whether logits predict the next token, so that the first token of a block is predicted in the block before.
        to_longest: Fill all rows of a batch up to the longest.
        learn_next: Keep the whole clean copy, and let it predict the next token, too.

    Returns what `DiffusionCollator` returns, with the columns of [N | C] for positions and all `labels` in N. Besides:
    `position_ids`, `clean` (whether the column belongs to C) and `ratios` (p of the column; 1 in C and in padding), each
    `(batch, columns)`; with `learn_next` also `next_labels` `(batch, columns)`, each at the column that predicts it.
    """

    block_length: int = 1
    noise_per: str = "row"
    shifted: bool = False
    to_longest: bool = False
    learn_next: bool = False

    def _ends(self, lengths: Sequence[int]) -> list[int]:
        longest = max(lengths)
        return [self._whole(longest if self.to_longest else length) - length for length in lengths]

    def _whole(self, length: int) -> int:
        return -(-length // self.block_length) * self.block_length

    def _hide(
        self, row: Mapping[str, Any], ratio: float, start: int, answer: int, ends: int
    ) -> tuple[list[bool], list[float]]:
        if self.noise_per == "row":
            return super()._hide(row, ratio, start, answer, ends)
        assert self.masking is not None
        words, unit = self._words(row, answer), self.masking.unit
        generator, of_ends = self._generator(row, MASK_STREAM), self._generator(row, PADDING_STREAM)
        hidden: list[bool] = []
        ratios: list[float] = []
        for block in range(start // self.block_length, (start + answer + ends) // self.block_length):
            first = max(block * self.block_length - start, 0)
            last = (block + 1) * self.block_length - start
            p = (1 - self.eps) * self._block_ratio(row, block) + self.eps
            inside = min(last, answer) - first
            if inside > 0:
                own = None if words is None else words[first : first + inside]
                hidden += draw_mask(inside, p, generator, unit, own).tolist()
            hidden += draw_mask(last - max(first, answer), p, of_ends).tolist() if last > answer else []
            ratios += [p] * (last - first)
        return hidden, ratios

    def _block_ratio(self, row: Mapping[str, Any], block: int) -> float:
        assert self.masking is not None
        seed, epoch = self._seed_and_epoch(row)
        return self.masking.law.ratio(block_seed(seed, row["sample"]), epoch, block, self.num_epochs)

    def lay_out(self, noised: Sequence[Noised]) -> dict[str, torch.Tensor]:
        """The batch of rows whose noise is drawn, each of whole blocks and laid out as [N | C]."""
        assert self.masking is not None
        columns = [self._columns(each) for each in noised]  # (places in N, places in C)
        width = self._padded_length([len(noisy) + len(clean) for noisy, clean in columns])
        ids, labels, ratios, following = [], [], [], []
        for each, (noisy, clean) in zip(noised, columns, strict=True):
            shown = [self.masking.mask_token_id if each.hidden[place] else each.clean[place] for place in noisy]
            ids.append([*shown, *(each.clean[place] for place in clean)])
            labels.append([each.clean[place] if each.hidden[place] else IGNORED for place in noisy])
            ratios.append([each.ratio[place] or 1.0 for place in noisy])
            start = len(each.clean) - each.maskable
            following.append(
                [IGNORED] * len(noisy)
                + [each.clean[place + 1] if start <= place + 1 < len(each.clean) else IGNORED for place in clean]
            )
        targets = padded(labels, width, IGNORED)
        return {
            "input_ids": padded(ids, width, self.pad_token_id),
            "position_ids": padded([[*noisy, *clean] for noisy, clean in columns], width, 0),
            "clean": padded([[False] * len(noisy) + [True] * len(clean) for noisy, clean in columns], width, 0).bool(),
            "attention_mask": padded([[1] * len(row) for row in ids], width, 0),
            "labels": targets,
            "ratios": padded(ratios, width, 1.0),
            "mask_ratio": torch.tensor([each.mean_ratio for each in noised]),
            "maskable": torch.tensor([each.maskable for each in noised]),
            **({"next_labels": padded(following, width, IGNORED)} if self.learn_next else {}),
            **({"supervised": torch.stack((targets != IGNORED).nonzero(as_tuple=True))} if self.indexed else {}),
        }

    def _columns(self, row: Noised) -> tuple[list[int], list[int]]:
        """The positions of ``row`` that the noisy copy N keeps, and those that the clean copy C keeps."""
        places = [place for place, hidden in enumerate(row.hidden) if hidden]
        read = [max(place - 1, 0) for place in places] if self.shifted else []
        blocks = sorted({place // self.block_length for place in (*places, *read)})
        blocks = blocks or [(len(row.clean) - 1) // self.block_length]  # nothing is hidden, and a batch cannot be empty
        noisy = [
            place for block in blocks for place in range(block * self.block_length, (block + 1) * self.block_length)
        ]
        return noisy, list(range(len(row.clean) if self.learn_next else blocks[-1] * self.block_length))


class DiffusionSFTTrainer(DocumentSFTTrainer):
    """Trains a masked diffusion model to fill in hidden tokens, at every noise level.

    Each token of a document or answer, and the end of its turn, is hidden with the probability p of its sample. The
    cross-entropy of hidden tokens is weighted by 1 / p, which bounds the negative log-likelihood. Prompts stay visible.
    Besides trl's metrics, `mask_ratio` and the unweighted loss by quarter of p's range (`loss_ratio_q1` ... `loss_ratio_q4`)
    are logged.

    A block diffusion model learns on [noisy | clean] rows (`BlockCollator`): every block is predicted
    given the clean blocks before it. The tokens that fill up the last block are learned, too.

    See [`DocumentSFTTrainer`] for the arguments and further errors. With `args.to_diffusion` the model may be
    autoregressive; it is turned into a diffusion model in place.

    Raises:
        ConfigurationError: the model is causal, or its configuration names no mask token; `compute_metrics` or
            `compute_loss_func` is given; a setting of block diffusion models is given for another model.
        DataError: a document or prompt holds the mask token.
    """

    _tag_names = ["kinject", "masked-diffusion"]
    _name = "Masked diffusion fine-tuning"
    large_learning_rate = 1e-5
    loss_is_scaled_for_ga: bool | None = True  # type: ignore[assignment]  # by what `_get_num_items_in_batch` counts
    args: DiffusionSFTConfig

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: DiffusionSFTConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        unusable = [name for name in ("compute_metrics", "compute_loss_func") if kwargs.get(name) is not None]
        if unusable:
            raise ConfigurationError(
                f"{unusable[0]} is not supported: logits of a noised document are no prediction of it. Leave it out, and "
                "follow the run with QuestionAnsweringCallback."
            )
        if isinstance(model, str):
            options = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
            loaded = load_model(model, **args.conversion_options(), **{"dtype": "float32", **options})
            model, args.model_init_kwargs = loaded.model, None
            processing_class = processing_class or loaded.tokenizer
        else:
            refuse_canvases(model, "train")
            if args.to_diffusion and not is_diffusion(model):
                if processing_class is None:
                    raise ConfigurationError(
                        "to_diffusion finds the mask token in the tokenizer; pass processing_class."
                    )
                mask_token_id = resolve_mask_token(processing_class, args.mask_token, text_config(model).vocab_size)
                to_diffusion(model, mask_token_id, shifted_logits=args.shifted_logits is not False)  # type: ignore[arg-type]
            in_blocks = args.to_diffusion == "block" or getattr(text_config(model), "block_length", None) is not None
            if in_blocks and is_diffusion(model):
                attend_in_blocks(model, args.block_length, args.clean_attention)
        refuse_canvases(model, "train")
        if not is_diffusion(model):
            raise ConfigurationError(
                "the model is causal (autoregressive), not a masked diffusion model. Name a diffusion checkpoint, or turn "
                "this one into one with to_diffusion=True (--to_diffusion)."
            )
        self._settings = diffusion_settings(model)
        self._check_blocks(args)
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **kwargs)

    def _check_blocks(self, args: DiffusionSFTConfig) -> None:
        """Refuse settings of block diffusion models for a model that has no blocks."""
        if self._settings.block_length is None:
            for name, value, default in (
                ("noise_per", args.noise_per, "row"),
                ("clean_attention", args.clean_attention, None),
            ):
                if value != default:
                    raise ConfigurationError(
                        f"{name} is '{value}', and the model has no blocks: every position attends to every other. Make it a "
                        "block diffusion model with to_diffusion='block' (--to_diffusion block), or leave it out."
                    )

    # What an objective decides.

    def _document_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        return (FACT,) if isinstance(args, DiffusionSFTConfig) and args.frame == "chat" else (RAW_FROM_BEGIN,)

    def _row_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        return (ANSWER,)

    def _masking(self, vocab_size: int) -> Masking:
        return Masking(
            law=parse_mask_ratio(self.args.mask_ratio),
            mask_token_id=self._settings.mask_token_id,
            candidate_ids=torch.empty(0, dtype=torch.long),
            unit=self.args.mask_unit,  # type: ignore[arg-type]
            ratio_per=self.args.mask_ratio_per,  # type: ignore[arg-type]
        )

    def _collator(self, **options: Any) -> DocumentCollator:
        options |= {
            "eps": 0.0 if self.args.normalize == "paper" else _LEAST_PROBABILITY,
            "complementary": self.args.complementary,
        }
        end = end_of_text_id(compat.tokenizer_of(self)) if self.args.end_padding or self._in_blocks else None
        if self._settings.block_length is None:
            return DiffusionCollator(**options, end_padding_id=end)
        return BlockCollator(
            **options,
            end_padding_id=end,
            block_length=self._settings.block_length,
            noise_per=self.args.noise_per,
            shifted=self._settings.shifted_logits,
            to_longest=self.args.end_padding,
            learn_next=self._learns_next,
        )

    @property
    def _in_blocks(self) -> bool:
        return self._settings.block_length is not None

    @property
    def _learns_next(self) -> bool:
        """Whether the clean copy, which attends backwards only, also predicts the next token."""
        return self._settings.clean_attention == "causal"

    @property
    def _weighted(self) -> bool:
        """Whether the loss of a hidden token is weighted by 1 / p."""
        return self.args.weighting == "1/p" or (self.args.weighting is None and not self.args.complementary)

    def _check_attention(self, model: PreTrainedModel) -> None:
        """Do nothing: `__init__` has checked the attention before any data was read."""

    def _forbidden_id(self) -> int:
        return self._settings.mask_token_id

    def _write_beside(self, directory: str) -> None:
        # A whole model has these settings in its config.json.
        if hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            write_diffusion_settings(directory, self.model)

    # Hooks of the trainer.

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """What the loss of the whole accumulated batch is divided by."""
        total = torch.as_tensor(sum(self._divisor(self._counted(batch)) for batch in batch_samples), device=device)
        if self.args.average_tokens_across_devices:
            total = self.accelerator.gather(total).sum()
        return total

    def _counted(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The number of tokens that the loss of each row is divided by for its mean, `(batch,)`.

        With weights these are all tokens that could have been hidden, without weights those that are. Two complementary rows,
        which together hide each token once, have half of them each.
        """
        if self.args.complementary:
            return batch["maskable"] / 2
        return batch["maskable"] if self._weighted else (batch["labels"] != IGNORED).sum(-1)

    def _divisor(self, counted: torch.Tensor) -> torch.Tensor:
        return counted.sum() if self.args.normalize == "maskable" else torch.ones_like(counted).sum()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The weighted loss, with only the hidden positions projected through the head."""
        mode = "train" if model.training else "eval"
        labels, mask_ratio, maskable = inputs["labels"], inputs["mask_ratio"], inputs["maskable"]
        counted = self._counted(inputs)
        where = inputs.get("supervised")
        rows, positions = (labels != IGNORED).nonzero(as_tuple=True) if where is None else where
        read = (positions - 1).clamp(min=0) if self._settings.shifted_logits else positions
        targets, read_rows, hidden = labels[rows, positions], rows, len(rows)
        if self._learns_next:
            following = (inputs["next_labels"] != IGNORED).nonzero(as_tuple=True)
            targets = torch.cat([targets, inputs["next_labels"][following]])
            read_rows, read = torch.cat([rows, following[0]]), torch.cat([read, following[1]])
        with self._supervised.at(read_rows, read):
            scores = token_scores(model, self._forwarded(model, inputs), targets)
        ratios = inputs["ratios"][rows, positions] if "ratios" in inputs else mask_ratio[rows]  # (hidden,)
        shares = ratios if self._weighted else torch.ones_like(ratios)
        by_row = self.args.normalize != "maskable"
        weights = 1 / (shares * counted[rows]) if by_row else 1 / shares
        if self._learns_next:
            # All tokens that may be hidden are predicted as next tokens: their mean in a row, times what the row counts.
            beside = 1 / maskable if by_row else counted / maskable  # (batch,)
            weights = torch.cat([_BESIDE_NEXT_TOKENS * weights, beside[following[0]]])
        weighted = scores.log_probs.float().to(rows.device) * weights  # (hidden and next,)
        divisor = self._divisor(counted) if num_items_in_batch is None else num_items_in_batch
        if not self._weighted:  # the number of hidden tokens, which may be 0
            divisor = torch.as_tensor(divisor).clamp(min=1)
        loss = -weighted.sum() / divisor
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the processes' gradients are averaged
        self._tally.add_scores(mode, scores, inputs["attention_mask"].sum())
        self._tally.add_ratios(mode, mask_ratio, rows, scores.log_probs[:hidden], of_tokens=ratios)
        return (loss, None) if return_outputs else loss

    def _forwarded(self, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the model's forward pass."""
        settings, visible = self._settings, inputs["attention_mask"]
        given = {"input_ids": inputs["input_ids"], "attention_mask": visible, "use_cache": False}
        if settings.block_length is None:
            return given
        tokens = Tokens(inputs["position_ids"], inputs["clean"], visible.bool())
        base = self.accelerator.unwrap_model(model)
        mask = block_mask(base, tokens, settings.block_length, settings.clean_attention)
        return given | {"attention_mask": mask, "position_ids": inputs["position_ids"]}

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """The loss alone: logits of a noised document are no prediction of it."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None
