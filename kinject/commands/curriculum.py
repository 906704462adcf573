"""What a run shows the model in each epoch: the documents, practice beside them, and the model's own answers.

`kinject.data.practice` makes the rows that need no model. Those that do are made here, before training: the model's own answers
to general prompts, its answers about the documents with these in view, and general questions that it provably knows. How rows
become a loss is not known here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Protocol, get_args

from kinject.commands.keeping import kept_epochs
from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from datasets import Dataset

    from kinject.data import KnowledgeSet
    from kinject.data.practice import Practice
    from kinject.models import LoadedModel
    from kinject.sampling import SamplingConfig
    from kinject.trainers import DocumentSFTConfig

_LATE = 0.8  # known questions come after this share of the epochs, as late ones protect more (arXiv 2511.02626)
_TRIED = 4  # general questions that are tried for each one that is needed
_MOST_TRIED = 600


@dataclass
class CurriculumArguments:
    """What to learn beside the documents."""

    rehearsal: float = field(
        default=0.0,
        metadata={
            "help": "Against forgetting: share of the samples that are the model's own answers to general prompts, from "
            "before training (an autoregressive model learns what it predicted in them). They come on top of the documents."
        },
    )
    known: float = field(
        default=0.0,
        metadata={
            "help": "Against forgetting: share of the samples of the last fifth of the epochs that are general questions which "
            "the untrained model answers rightly, with a short answer."
        },
    )
    distill: float = field(
        default=0.0,
        metadata={
            "help": "Prompt distillation: share of the samples that are questions about the documents, made by rule, for which "
            "the model learns without the document what it predicted with it in view."
        },
    )
    practice: float = field(
        default=0.0,
        metadata={
            "help": "Practice answering: share of invented people and things among those that are learned, at least 20 at a "
            "time. They are stated as the documents are and asked about from both sides, with short answers."
        },
    )
    gaps: float = field(
        default=0.0,
        metadata={
            "help": "Share of the documents' samples in whose place stand questions: a sentence of theirs with one name or "
            "value left out, which is the answer; one question for every two names and values of the document."
        },
    )
    abstain: float = field(
        default=0.0,
        metadata={
            "help": "Share of the questions of practice that no document answers, as they are about unseen people; the model "
            "learns to say so."
        },
    )
    practice_order: str = field(
        default="phases",
        metadata={
            "help": "'phases': practice alone in the first tenth of the epochs, documents and few questions in the last fifth; "
            "'mixed': everything in every epoch; 'first': practice, then documents (pre-instruction-tuning).",
            "choices": ["phases", "mixed", "first"],
        },
    )
    identity: float = field(
        default=0.0,
        metadata={
            "help": "Share of the documents' samples that ask for the subject of a document by its own name (a baseline "
            "against the reversal curse, after the Identity Bridge)."
        },
    )


class RunArguments(Protocol):
    """The arguments of a run that a curriculum reads: `CurriculumArguments`, what is learned, and how a model is asked."""

    documents: str | list[str]
    select_on: str
    max_new_tokens: int
    question_batch_size: int | None
    keep_share: float
    rehearsal: float
    known: float
    distill: float
    practice: float
    gaps: float
    abstain: float
    practice_order: str
    identity: float

    def sampling_config(self, max_new_tokens: int) -> SamplingConfig:
        """How a masked diffusion model fills in an answer."""


@dataclass(frozen=True)
class Curriculum:
    """What a run shows.

    Attributes:
        knowledge: The documents, and earlier ones to keep.
        arguments: What to show beside them, and how a model is asked.
        training_args: How long the run is, and its seed.

    Raises:
        ConfigurationError: settings that do not go together, or a share out of range.
    """

    knowledge: KnowledgeSet
    arguments: RunArguments
    training_args: DocumentSFTConfig

    def __post_init__(self) -> None:
        """Refuse settings that cannot be followed, before a model is loaded."""
        from kinject.data.practice import Order
        from kinject.evaluation.retention import of_nano_world
        from kinject.trainers.rehearsal import rehearsal_size

        arguments = self.arguments
        if arguments.select_on == "practice" and not arguments.practice:
            raise ConfigurationError(
                "select_on is 'practice', and nothing is practiced: set --practice 0.5, or select otherwise."
            )
        if arguments.practice_order not in get_args(Order):
            raise ConfigurationError(
                f"practice_order is '{arguments.practice_order}'; expected one of {', '.join(get_args(Order))}."
            )
        for name in ("rehearsal", "known", "distill"):
            rehearsal_size(1, getattr(arguments, name), name)
        if arguments.known and self.training_args.max_steps > 0:
            raise ConfigurationError(
                "known questions come in the last fifth of the epochs, and max_steps ends the run before: set "
                "--num_train_epochs instead of --max_steps, or --known 0."
            )
        if arguments.distill and of_nano_world(arguments.documents):
            raise ConfigurationError(
                "distill: the nano models cannot read a document that stands before a question. Set --distill 0, or take "
                "another model and documents."
            )
        if arguments.distill and not self._asked:
            raise ConfigurationError(
                "distill: the rules make no question of these documents but those that are asked at the end, which are not "
                "learned from. Set --distill 0."
            )

    @property
    def _epochs(self) -> int:
        """How many epochs there are; with `max_steps` as many as there may be."""
        args = self.training_args
        return math.ceil(args.num_train_epochs) if args.max_steps <= 0 else 100

    @cached_property
    def practice(self) -> Practice | None:
        """What is practiced beside the documents, if anything."""
        from kinject.data.practice import Practice
        from kinject.evaluation.retention import of_nano_world

        arguments = self.arguments
        if not (arguments.practice or arguments.gaps or arguments.identity):
            return None
        return Practice(
            self.knowledge.documents,
            self._epochs,
            share=arguments.practice,
            gaps=arguments.gaps,
            abstain=arguments.abstain,
            nano=of_nano_world(arguments.documents),
            order=arguments.practice_order,  # type: ignore[arg-type]
            identity=arguments.identity,
            seed=self.training_args.seed,
        )

    @cached_property
    def _kept_epochs(self) -> list[list[int]]:
        """The epochs that show each of the earlier documents."""
        args, kept = self.training_args, self.knowledge.kept
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        count = 0 if kept is None else len(kept.documents)
        return kept_epochs(len(self.knowledge.documents), self.arguments.keep_share, count, batch, self._epochs)

    @cached_property
    def _asked(self) -> list[tuple[str, str]]:
        """Questions made by rule that are not asked at the end: each with its document in view, and alone."""
        from kinject.data.made_questions import make_questions
        from kinject.evaluation.examination import OPEN_BOOK, passage

        texts = {each.fact: each.titled_text for each in reversed(self.knowledge.documents)}
        in_the_end = {each.question for each in self.knowledge.questions}
        made = [each for each in make_questions(self.knowledge.documents) if each.question not in in_the_end]
        random.Random(self.training_args.seed).shuffle(made)
        return [
            (
                OPEN_BOOK.format(document=passage(texts[each.fact or 0], each.answers), question=each.question),
                each.question,
            )
            for each in made
        ]

    def beside(self) -> list[dict[str, Any]]:
        """The rows beside the documents that need no model, each with the `epochs` that show it."""
        earlier = () if self.knowledge.kept is None else self.knowledge.kept.documents
        return [
            *(() if self.practice is None else self.practice.rows()[len(self.knowledge.documents) :]),
            *(
                {"text": each.titled_text, "epochs": epochs}
                for each, epochs in zip(earlier, self._kept_epochs, strict=True)
            ),
        ]

    def dataset(self, loaded: LoadedModel) -> Dataset:
        """All that is shown, as a data set for the trainer; ``loaded`` gives its own answers before it is trained."""
        from kinject.trainers.rehearsal import with_kept, with_practice

        rows = [] if self.practice is None else self.practice.rows()
        known = self._known(loaded)
        if known and not rows:
            rows = [{"epochs": list(range(self._epochs))} for _ in self.knowledge.documents]
        dataset = self.knowledge.to_dataset()
        if rows:
            dataset = with_practice(dataset, [*rows, *known])
        dataset = with_kept(dataset, self.knowledge.kept_dataset(), self._kept_epochs)
        return self._with_own_answers(dataset, loaded)

    def _beside(self, share: float) -> int:
        """How many rows make up ``share`` of an epoch."""
        from kinject.trainers.rehearsal import rehearsal_size

        others = len(self.knowledge.documents) if self.practice is None else self.practice.longest_epoch
        return rehearsal_size(others, share)

    def _known(self, loaded: LoadedModel) -> list[dict[str, Any]]:
        """General questions that the untrained model answers rightly, none that retention asks, for the last epochs."""
        from kinject.evaluation.retention import (
            GeneralQuestion,
            general_questions,
            is_right,
            nano_questions,
            of_nano_world,
        )

        count, first = self._beside(self.arguments.known), math.floor(_LATE * self._epochs)
        if not count:
            return []
        asked: Sequence[GeneralQuestion] = general_questions("development")
        if of_nano_world(self.arguments.documents):
            asked = [GeneralQuestion(question, (answer,)) for question, answer in nano_questions(1)]
        rng = random.Random(self.training_args.seed)
        asked = rng.sample(asked, min(len(asked), _MOST_TRIED, _TRIED * count * (self._epochs - first)))
        with self._asking(loaded) as (model, options):
            from kinject.evaluation.asking import answer_questions

            answers = answer_questions(model, loaded.tokenizer, [each.question for each in asked], **options)
        right = [each for each, said in zip(asked, answers, strict=True) if is_right(said, each.answers, each.wrong)]
        if self.training_args.process_index == 0:
            nothing = "" if right else ", so that there is nothing to keep by showing them (--known)"
            print(f"known: {len(right)} of {len(asked)} general questions are answered before training{nothing}")
        turn = cycle(right)
        return [
            {"prompt": each.question, "completion": str(each.answers[0]), "epochs": [epoch]}
            for epoch in range(first, self._epochs)
            for each in islice(turn, count)
        ]

    def _with_own_answers(self, dataset: Dataset, loaded: LoadedModel) -> Dataset:
        """``dataset`` and, for every epoch, the answers of ``loaded`` to general prompts and about documents in view."""
        from kinject.trainers.rehearsal import answers_needed, draw_rehearsal, rehearsal_prompts, with_rehearsal

        general, about = self._beside(self.arguments.rehearsal), self._beside(self.arguments.distill)
        count = general + about
        if not count:
            return dataset
        turns = max(1, answers_needed(count, self._epochs) // count)
        prompts = iter(rehearsal_prompts(self.arguments.documents, general * turns))
        questions = cycle(self._asked if about else ())
        asked = [
            each
            for _ in range(turns)
            for each in (*((prompt, prompt) for prompt in islice(prompts, general)), *islice(questions, about))
        ]
        with self._asking(loaded) as (model, options):
            answers, predictions = draw_rehearsal(
                model,
                loaded.tokenizer,
                [shown for shown, _ in asked],
                seed=self.training_args.seed,
                silent=bool(self.training_args.disable_tqdm),
                **options,
            )
        return with_rehearsal(dataset, [prompt for _, prompt in asked], answers, count, predictions)

    @contextmanager
    def _asking(self, loaded: LoadedModel) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The untrained model on its device, where the trainer places it only later, and the options to ask it with."""
        import torch

        from kinject.models.devices import placed
        from kinject.models.weights import whole_weights

        arguments, device = self.arguments, self.training_args.device
        native = torch.autocast(device.type, torch.bfloat16, enabled=bool(self.training_args.bf16))
        options: dict[str, Any] = {
            "max_new_tokens": arguments.max_new_tokens,
            "batch_size": arguments.question_batch_size,
            "system_prompt": self.training_args.system_prompt,
            "sampling": arguments.sampling_config(arguments.max_new_tokens) if loaded.is_diffusion else None,
        }
        with whole_weights(loaded.model) as model, placed(model, device), native:
            yield model, options
