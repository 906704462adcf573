"""The trainer that every objective on documents extends: documents in, supervised token positions out.

Adds to [`trl.SFTTrainer`] what all objectives need: frames around documents, splitting instead of truncation, masks that
are a pure function of (seed, epoch, sample), and a head that runs on supervised positions only.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, IterableDataset
from transformers import AutoConfig, TrainerCallback

from kinject.compat import check_devices
from kinject.data.knowledge import with_title
from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.evaluation.results import public_name
from kinject.models.adapters import head_refusal, require_adapter_modules
from kinject.models.diffusion import is_diffusion, text_config
from kinject.models.weights import frozen_parameters, parameter_count
from kinject.prompts.encoding import pin_template
from kinject.prompts.templates import ANSWER, IGNORED, DocumentTemplate, Wording
from kinject.trainers.collator import PREDICTED, DocumentCollator, Masking, check_isolation, document_of_each
from kinject.trainers.distillation import DistillingTrainer
from kinject.trainers.document_config import CorruptionSFTConfig, DocumentSFTConfig, set_deepspeed_rate
from kinject.trainers.infilling import EntityReport, hidden_words
from kinject.trainers.order import ALWAYS, EpochCallback, LengthGroupedSampler, TurnSampler
from kinject.trainers.positions import SharedPrompts, SupervisedPositions
from kinject.trainers.preparation import PREPARED, check_dataset, question_and_answer, split_document
from kinject.trainers.run_inputs import _frozen_digest, plain, row_tags, shaping_settings

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kinject.prompts.encoding import EncodedDocument
    from kinject.prompts.templates import Frame
    from kinject.trainers.collator import Packing
    from kinject.trainers.infilling import Gap


logger = logging.getLogger(__name__)


class DocumentSFTTrainer(DistillingTrainer):
    """Fine-tunes on rows of `text`, `prompt`/`completion`, or `messages`; see the subclasses for the objectives.

    A row with `text` is a document: every token of it is learned. In the other rows, of any form that
    `kinject.data.rows.conversation_of` reads, the question stays visible and the (last) answer is the document. Documents
    over `max_length` are split at sentence ends; an answer that does not fit is an error, since cutting it would change the
    target.

    A row's `title` begins what does not name it (`keep_titles`).

    Args:
        model: A causal language model, or its path.
        args: The configuration.
        train_dataset, eval_dataset: Data sets of such rows. Evaluation rows meet fixed masks.
        processing_class: The tokenizer. Default: loaded from the model's path.
        callbacks: Further callbacks.
        peft_config: Trains an adapter instead of the model.
        kwargs: Passed on to [`trl.SFTTrainer`].

    Raises:
        ConfigurationError: unknown wording, no usable mask token, LoRA targets or frozen modules that match nothing, an
            answer longer than `max_length`, a token that the model has no embedding for.
        DataError: a row without text, prompt/completion or messages, or with an empty document.
    """

    _tag_names = ["kinject", "sft"]
    _large_learning_rate = 5e-6  # of a full model of a billion parameters or more
    args: DocumentSFTConfig

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: DocumentSFTConfig,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if getattr(peft_config, "is_prompt_learning", False):
            raise ConfigurationError(
                f"{type(peft_config).__name__} adds virtual tokens, which shift the supervised positions. "
                "Use LoRA or train the full model."
            )
        if not isinstance(model, str):
            require_adapter_modules(model, peft_config)
        check_dataset(train_dataset, "train")
        for name, dataset in (eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset}).items():
            if dataset is not None:
                check_dataset(dataset, str(name))
        if isinstance(model, str) or not hasattr(model, "hf_device_map"):  # which may split it over several GPUs
            check_devices(args.n_gpu)
        self.entity_reports: dict[str, EntityReport] = {}
        self._template: DocumentTemplate | None = None
        self._documents: str | None = None
        self._rehearsed: DocumentTemplate | None = None
        self._vocabulary_size = _vocabulary_size(model, args)
        try:
            super().__init__(
                model,
                args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
                peft_config=peft_config,
                **kwargs,
            )
        except ValueError as error:
            said = str(error)
            if "adapter to `lm_head`" in said:
                raise ConfigurationError(head_refusal("lm_head")) from error
            if "Target module" in said or "`target_modules`" in said:  # a module that peft cannot adapt, or none at all
                raise ConfigurationError(
                    f"lora_target_modules cannot be adapted: {said.splitlines()[0]} Name two or more linear layers of the "
                    "model, such as q_proj v_proj, or one as '.*q_proj', or all-linear."
                ) from error
            raise
        if isinstance(model, str):
            require_adapter_modules(self._unwrapped(), peft_config)
        base = self._unwrapped()
        self._check_attention(base)
        for weight in frozen_parameters(base, args.frozen_modules or (), adapter=base is not self.model):
            weight.requires_grad_(False)
        if getattr(base, "is_quantized", False) and not args.bf16:
            # trl rounds what is trained of a quantized model to bfloat16; loaded again it would answer differently.
            for weight in filter(lambda each: each.requires_grad, base.parameters()):
                weight.data = weight.data.float()
        packing: Packing = "none"
        if args.packing:
            packing = "boundaries" if check_isolation(base, args.device) else "positions"
        if args.learning_rate is None:
            small = peft_config is not None or parameter_count(base) < 1e9
            args.learning_rate = 1e-4 if small else self._large_learning_rate
            if self.is_deepspeed_enabled:  # which read its file when there was none
                set_deepspeed_rate(self.accelerator.state.deepspeed_plugin.hf_ds_config, None, args.learning_rate)
        self._distills = self._has_predictions()
        self._supervised = SupervisedPositions(base)
        self._shared_prompts = SharedPrompts(self, base)
        # The loss is summed over supervised tokens and divided by their number in the whole accumulated batch, whatever
        # the model's own forward accepts; this makes accumulation exact for every architecture.
        self.model_accepts_loss_kwargs = True
        # What is saved asks in the frame of training, whoever renders it; the caller's tokenizer stays as it is.
        saved = copy.copy(self._tokenizer)
        pin_template(saved, args.system_prompt)
        self.processing_class = saved
        frames = self._document_template(processing_class=self._tokenizer, args=args).frames
        framing = [index for frame in frames for part in (frame.before, frame.between, frame.after) for index in part]
        self._require_embeddings(framing, "the prompt around documents", self._tokenizer)
        self.data_collator = self._collator(
            frames=frames,
            pad_token_id=self._tokenizer.pad_token_id,
            seed=args.seed if args.data_seed is None else args.data_seed,
            masking=self._masking(base.config.get_text_config().vocab_size),
            pad_to_multiple_of=int(args.pad_to_multiple_of) if args.pad_to_multiple_of else None,
            packing=packing,
        )
        self.add_callback(EpochCallback(self.data_collator))
        self.inputs = self._inputs(base)

    # What a subclass decides.

    def _document_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        """Frames around plain documents."""
        raise NotImplementedError

    def _row_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        """Frames of a question with its answer."""
        raise NotImplementedError

    def _texts(self, row: Mapping[str, Any], args: DocumentSFTConfig) -> Iterator[tuple[str, str]]:
        """The texts to learn from a plain document, each with the title that its pieces begin with."""
        yield row[args.dataset_text_field], title_of(row, args)

    def _masking(self, vocab_size: int) -> Masking | None:
        """What is hidden in the prompt's copy; `None` for objectives without a copy."""
        return None

    def _gaps(self, document: EncodedDocument, row: Mapping[str, Any], args: Any) -> list[Gap] | None:
        """What an infilling sample of ``document`` may miss, for objectives that need to be told."""
        return None

    def _entity_report(self, args: DocumentSFTConfig) -> EntityReport | None:
        """What counts the documents that have not the entities that the settings need; None where they need none."""
        if isinstance(args, CorruptionSFTConfig) and args.mask_unit == "entity":
            return EntityReport("mask_unit entity", "their words are hidden one by one")
        return None

    def _collator(self, **options: Any) -> DocumentCollator:
        """What makes batches; ``options`` are the fields of a `DocumentCollator`."""
        return DocumentCollator(**options)

    def _check_attention(self, model: PreTrainedModel) -> None:
        """Refuse a model of the other kind: causal or bidirectional."""
        if is_diffusion(model):
            raise ConfigurationError(
                f"the model is a masked diffusion model, which {type(self).__name__} cannot train: it learns to predict "
                "the next token. Train it with DiffusionSFTTrainer (recipes/dllm_ft.py, --objective diffusion), or name "
                "an autoregressive model."
            )

    # Hooks of trl.SFTTrainer.

    def _prepare_dataset(  # type: ignore[override]
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase,
        args: DocumentSFTConfig,
        packing: bool,
        formatting_func: Callable[[dict[str, Any]], str] | None,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        columns = list(dataset.features or next(iter(dataset)))
        if dataset_name == "train" and isinstance(dataset, Dataset):
            told = dataset.select_columns([name for name in columns if name != "predictions"])
            self._documents = row_tags(row for row in told if not row.get("rehearsal"))
        if "document_ids" in columns:
            return dataset
        if formatting_func is not None:
            raise ConfigurationError("formatting_func is not supported; give rows a 'text' column instead.")
        template = self._document_template(processing_class, args)
        row_template = DocumentTemplate(processing_class, self._row_wordings(args), args.system_prompt)
        fixed_masks = dataset_name != "train"
        report = self._entity_report(args)
        mask_unit = args.mask_unit if isinstance(args, CorruptionSFTConfig) else None

        def prepare(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            prepared: dict[str, list[Any]] = {name: [] for name in PREPARED}
            for position, index in enumerate(indices):
                row = {name: values[position] for name, values in batch.items()}
                where = f"row {index} of the {dataset_name} data set"
                samples = list(self._samples(row, index, dataset_name, args, template, row_template))
                if report is not None and samples[0][1] is None:  # a document
                    report.add(with_title(title_of(row, args), row[args.dataset_text_field]), row, where)
                for document, own_frames in samples:
                    self._require_embeddings(document.ids, where, processing_class)
                    prepared["document_ids"].append(document.ids)
                    prepared["word_ids"].append(hidden_words(document, row, mask_unit))
                    prepared["gaps"].append(self._gaps(document, row, args))
                    frames = own_frames or template.frames
                    prepared["frames"].append(own_frames and [vars(frame) for frame in own_frames])
                    prepared["length"].append(max(_sample_length(frame, len(document.ids)) for frame in frames))
                    prepared["sample"].append(0)
                    prepared["fixed_masks"].append(fixed_masks)
                    prepared["turn"].append(row["turn"] if row.get("rehearsal") else ALWAYS)
                    prepared["predictions"].append(row.get("predictions") if row.get("rehearsal") else None)
            return prepared

        # Not cached: the fingerprint of a bound method is not stable, and preparing costs less than hashing it.
        options: dict[str, Any] = {"desc": f"Tokenizing {dataset_name}"} if isinstance(dataset, Dataset) else {}
        options |= {"remove_columns": columns, "features": PREPARED}
        dataset = dataset.map(prepare, batched=True, with_indices=True, **options)
        if report is not None and isinstance(dataset, Dataset):  # a stream is prepared while it is read
            self.entity_reports[dataset_name] = report
            for line in report.warnings() if args.process_index == 0 else ():
                logger.warning(line)
        dataset = dataset.map(_number_samples, batched=True, with_indices=True)
        return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        """The library's sampler; `group_by_length` groups also small data sets, and what is rehearsed takes turns."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, Dataset):
            return super()._get_train_sampler(train_dataset)
        lengths = dataset["length"] if self.args.train_sampling_strategy == "group_by_length" else None
        group_size = self.args.train_batch_size * self.args.world_size
        collator: Any = self.data_collator
        # The order's epoch is the masks'. The library's `set_epoch` does not reach a sampler of several processes after a
        # resume in the middle of an epoch.
        if max(dataset["turn"]) > 0:
            return TurnSampler(dataset["turn"], collator.seed, lambda: collator.epoch, lengths, group_size)
        if lengths is None:
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(lengths, group_size, collator.seed, lambda: collator.epoch)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = list(PREPARED)  # type: ignore[assignment]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The library's schedule; `warmup_stable_decay` decays over the last fifth, or the share that `num_decay_steps` is."""
        if self.args.lr_scheduler_type == "warmup_stable_decay":
            given: Any = self.args.lr_scheduler_kwargs or {}
            decay = given.get("num_decay_steps", 0.2)
            if decay < 1:
                given = {**given, "num_decay_steps": max(1, int(num_training_steps * decay))}
            said, self.args.lr_scheduler_kwargs = self.args.lr_scheduler_kwargs, given
            try:
                return super().create_scheduler(num_training_steps, optimizer)
            finally:
                self.args.lr_scheduler_kwargs = said  # which another trainer may be given, too
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """trl's loss and metrics, with only the supervised positions projected through the head.

        What is rehearsed with its predictions is learned by their divergence instead of the drawn tokens.
        """
        mask_ratio = inputs.pop("mask_ratio", None)
        predictions = {name: inputs.pop(name) for name in PREDICTED if name in inputs}
        if return_outputs or self.label_smoother is not None:  # both need the logits of every position
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        position_ids = inputs.get("position_ids")  # only a packed batch has them
        targets = inputs.pop("labels")[:, 1:]  # (batch, length - 1); the last position predicts nothing
        rows, positions = (targets != IGNORED).nonzero(as_tuple=True)
        inputs["shift_labels"] = targets[rows, positions][None]
        positions = positions - self._shared_prompts.take_out(inputs, positions)
        with self._supervised.at(rows, positions):
            if self._distills and model.training:
                loss = self._distilling_loss(model, inputs, predictions, num_items_in_batch)
            else:
                loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if mask_ratio is not None:
            if position_ids is not None:
                rows = document_of_each(position_ids)[positions]
            mode = "train" if model.training else "eval"
            self._log_by_ratio(mode, mask_ratio, rows, self._supervised.log_probs)
        return loss

    # Private parts.

    def _inputs(self, base: PreTrainedModel) -> dict[str, Any]:
        """What this run learns and what shapes its steps; see `require_same_inputs`.

        Of what is rehearsed only the prompts count: its answers follow from them, but on some GPUs not to the last bit.
        """
        from kinject.trainers.document_config import objective_name  # which names this class

        adapters: dict[str, Any] = getattr(self.model, "peft_config", {})
        passing = {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
        documents, rehearsed = hashlib.sha256(), hashlib.sha256()
        prepared = self.train_dataset if isinstance(self.train_dataset, Dataset) else None
        if prepared is not None:
            for row in prepared.select_columns(["document_ids", "word_ids", "gaps", "frames", "turn"]):
                digest_of, told = (documents, row) if row["turn"] == ALWAYS else (rehearsed, row["frames"])
                digest_of.update(json.dumps([row["turn"], told]).encode())
        collator: Any = self.data_collator
        infilling, masking = collator.infilling, collator.masking
        documents.update(
            repr((collator.frames, infilling and infilling.frame, masking and masking.mask_token_id)).encode()
        )
        return {
            "objective": objective_name(self.args),
            "model": public_name(str(getattr(base.config, "_name_or_path", ""))),
            "adapter": ", ".join(str(plain(each.peft_type)) for each in adapters.values()) or None,
            "of the adapter": {
                name: value for each in adapters.values() for name, value in plain(each).items() if name not in passing
            },
            "documents": self._documents,
            **{name: value for name, value in shaping_settings(self.args).items() if name != "objective"},
            "the tokenized documents (or the chat template)": None if prepared is None else documents.hexdigest(),
            "the prompts that are rehearsed": None if prepared is None else rehearsed.hexdigest(),
            "the weights that are not trained": _frozen_digest(self.model),  # type: ignore[arg-type]
        }

    def _unwrapped(self) -> PreTrainedModel:
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _document_template(
        self, processing_class: PreTrainedTokenizerBase, args: DocumentSFTConfig
    ) -> DocumentTemplate:
        if self._template is None:
            self._template = DocumentTemplate(processing_class, self._document_wordings(args), args.system_prompt)
        return self._template

    def _require_embeddings(self, ids: Sequence[int], where: str, processing_class: PreTrainedTokenizerBase) -> None:
        """Refuse tokens that the tokenizer knows and the model does not, before any step is taken."""
        largest = max(ids)
        if largest >= self._vocabulary_size:
            token = processing_class.convert_ids_to_tokens(largest)
            raise ConfigurationError(
                f"{where} holds the token {token!r} (id {largest}), for which the model has no embedding: its vocabulary "
                f"ends at {self._vocabulary_size - 1}. Take the tokenizer that belongs to the model, or resize the model's "
                "embeddings (resize_token_embeddings) and train those."
            )

    def _rehearsal_template(self, args: DocumentSFTConfig) -> DocumentTemplate:
        if self._rehearsed is None:
            self._rehearsed = DocumentTemplate(self._tokenizer, (ANSWER,), args.system_prompt)
        return self._rehearsed

    def _samples(
        self,
        row: Mapping[str, Any],
        index: int,
        dataset_name: str,
        args: DocumentSFTConfig,
        template: DocumentTemplate,
        row_template: DocumentTemplate,
    ) -> Iterator[tuple[EncodedDocument, Sequence[Frame] | None]]:
        """The samples of one row: encoded document, and frames of its own if it is a question with an answer."""
        where = row.get("read_from") or f"row {index} of the {dataset_name} data set"
        conversation = question_and_answer(row, where, args.dataset_text_field)
        if conversation is not None:
            prompt, answer = conversation
            if row.get("rehearsal"):  # what the model said itself is said again as it is, whatever the objective
                row_template = self._rehearsal_template(args)
            try:
                row_template.require_spoken(answer)
                frames = row_template.row_frames(prompt)
            except KinjectError as error:
                raise type(error)(f"{where}: {error}") from error
            document = row_template.encode(answer)
            length = max(_sample_length(frame, len(document.ids)) for frame in frames)
            if args.max_length is not None and length > args.max_length:
                raise ConfigurationError(
                    f"{where}: question and answer take {length} tokens, over max_length {args.max_length}. "
                    "Raise --max_length; the answer is never cut."
                )
            yield document, frames
            return
        text = row.get(args.dataset_text_field)
        if not isinstance(text, str) or not text.strip():
            what = "is empty" if isinstance(text, str) else "is missing"
            raise DataError(
                f"{where}: '{args.dataset_text_field}' {what}. Expected a document, or 'prompt' and 'completion', or "
                "'messages'."
            )
        for part, title in self._texts(row, args):
            if args.max_length is None:
                yield template.encode(with_title(title, part)), None
                continue
            copies = 2 if any(frame.has_copy for frame in template.frames) else 1
            budget = (args.max_length - template.overhead()) // copies
            for document in split_document(template, part, budget, title, headings=args.keep_titles):
                yield document, None


def title_of(row: Mapping[str, Any], args: DocumentSFTConfig) -> str:
    """What the documents of ``row`` begin with; nothing without `keep_titles`."""
    title = row.get("title") if args.keep_titles else None
    return title if isinstance(title, str) else ""


def _vocabulary_size(model: str | PreTrainedModel | PeftModel, args: DocumentSFTConfig) -> int:
    """The ids that ``model`` has embeddings for, read before any document is."""
    if not isinstance(model, str):
        return int(text_config(model).vocab_size)
    options = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    config = AutoConfig.from_pretrained(
        model, revision=options.get("revision"), trust_remote_code=getattr(args, "trust_remote_code", False)
    )
    return int(config.get_text_config().vocab_size)


def _sample_length(frame: Frame, document_length: int) -> int:
    copies = 2 if frame.has_copy else 1
    return len(frame.before) + len(frame.between) + len(frame.after) + copies * document_length


def _number_samples(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[int]]:
    return {"sample": indices}
