"""The trainer that every objective on documents extends, and the one class between an objective and `trl.SFTTrainer`.

Read it from top to bottom. It adds what all objectives need: frames around documents, splitting instead of truncation, masks
that are a pure function of (seed, epoch, sample), a head that runs on supervised positions only, checkpoints that can be
trusted, and an eval card. Each hook of the library stands here, a few lines long, and calls by name what does the work; it
does not know how cards, pushes or checkpoints are made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, IterableDataset
from transformers import AutoConfig, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.models.adapters import head_refusal, require_adapter_modules
from kinject.models.diffusion import is_diffusion, refuse_canvases, text_config
from kinject.models.weights import (
    from_main_process,
    frozen_parameters,
    frozen_routers,
    is_by_zero3,
    narrow_saved,
    parameter_count,
)
from kinject.prompts.encoding import pin_template
from kinject.prompts.templates import Wording
from kinject.trainers.checkpointing import (
    DivergenceGuard,
    StopCallback,
    last_whole_checkpoint,
    make_loadable,
    mend_universal,
    universal_folder,
    written_whole,
)
from kinject.trainers.collator import (
    PREDICTED,
    WEIGHTS,
    DocumentCollator,
    Masking,
    check_isolation,
    document_of_each,
    supervised,
)
from kinject.trainers.document_config import (
    CorruptionSFTConfig,
    DocumentSFTConfig,
    learning_rate_for,
    require_updates,
    set_deepspeed_rate,
)
from kinject.trainers.hub_hooks import HubHooks
from kinject.trainers.infilling import EntityReport
from kinject.trainers.order import EpochCallback, LengthGroupedSampler, TurnSampler
from kinject.trainers.positions import SharedPrompts, SupervisedPositions, Tally, scores_of
from kinject.trainers.preparation import PREPARED, Preparation, check_dataset
from kinject.trainers.rehearsal import distilled, has_own_loss, other_divergence
from kinject.trainers.run_inputs import INPUTS, inputs_of, recorded_state, require_same_inputs

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kinject.hub.publishing import Push
    from kinject.prompts.encoding import EncodedDocument
    from kinject.trainers.collator import Packing
    from kinject.trainers.infilling import Gap

_EXACT = ("mask_ratio", "ratios", "predicted_log_probs", WEIGHTS)  # of a batch, what DeepSpeed must not round


class DocumentSFTTrainer(SFTTrainer):
    """Fine-tunes on rows of `text`, `prompt`/`completion`, or `messages`; see the subclasses for the objectives.

    A row with `text` is a document: every token of it is learned. In the other rows, of any form that
    `kinject.data.rows.conversation_of` reads, the question stays visible and the (last) answer is the document. Documents
    over `max_length` are split at sentence ends; an answer that does not fit is an error, since cutting it would change the
    target.

    A row's `title` is put before text that does not mention it (`keep_titles`).

    Args:
        model: A causal language model, or its path.
        args: The configuration.
        train_dataset, eval_dataset: Data sets of such rows. Evaluation rows meet fixed masks.
        processing_class: The tokenizer. Default: loaded from the model's path.
        callbacks: Further callbacks.
        peft_config: Trains an adapter instead of the model.
        kwargs: Passed on to [`trl.SFTTrainer`].

    Attributes:
        inputs: What the run learns and what shapes its steps, recorded in every checkpoint; see `require_same_inputs`.

    Raises:
        ConfigurationError: unknown wording, no usable mask token, LoRA targets or frozen modules that match nothing, an
            answer longer than `max_length`, a token that the model has no embedding for.
        DataError: a row without text, prompt/completion or messages, or with an empty document.
    """

    _tag_names = ["kinject", "sft"]
    large_learning_rate = 5e-6  # of a full model of a billion parameters or more
    args: DocumentSFTConfig
    hub_model_id: Any  # the repository, once it is known
    inputs: dict[str, Any]
    _weight_decays: list[float]
    _begins_at = 0  # steps that were taken before this run

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
            compat.check_devices(args.n_gpu)
        self._vocabulary_size = _vocabulary_size(model, args)
        # The libraries prepare the data and create the repository while they build the trainer.
        self._preparation: Preparation | None = None
        self._hub = HubHooks(self)
        self._guard = DivergenceGuard(self)
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
        adapted = base is not self.model
        for weight in (
            *frozen_parameters(base, args.frozen_modules or (), adapter=adapted),
            *frozen_routers(base, args.train_routers, adapter=adapted),
        ):
            weight.requires_grad_(False)
        if adapted and (self._keeps_no_masters() or (getattr(base, "is_quantized", False) and not args.bf16)):
            # trl rounds adapters on quantized weights to bfloat16, and peft copies what `modules_to_save` names as the base has
            # it. Small updates would be lost, and what is loaded again would answer differently.
            for weight in filter(lambda each: each.requires_grad, base.parameters()):
                weight.data = weight.data.float()
        packing: Packing = "none"
        if args.packing:
            packing = "boundaries" if check_isolation(base, args.device) else "positions"
        if args.learning_rate is None:
            args.learning_rate = learning_rate_for(parameter_count(base), adapted, self.large_learning_rate)
            if self.is_deepspeed_enabled:  # which read its file when there was none
                set_deepspeed_rate(self.accelerator.state.deepspeed_plugin.hf_ds_config, None, args.learning_rate)
        if not adapted and self._keeps_no_masters():
            require_updates(base, args)
        self._has_own_loss = has_own_loss(self)
        self._supervised = SupervisedPositions(base)
        self._unmasked = not is_diffusion(base) and compat.needs_no_mask(self, base)
        self._tally = Tally(self)
        self._untrained: PreTrainedModel | None = (
            None  # the weights before training, where no adapter leaves them as they are
        )
        if args.anchor and base is self.model:
            if is_by_zero3(base):
                raise ConfigurationError(
                    "anchor compares with a whole copy of the untrained model, and ZeRO-3 has sharded it. Launch with "
                    "deepspeed_configs/zero2.yaml, train an adapter (--use_peft true), or leave --anchor out."
                )
            self._untrained = untrained_copy(base, args.device)
            self._untrained_supervised = SupervisedPositions(self._untrained)
        self._shared_prompts = SharedPrompts(self, base)
        # The loss is summed over supervised tokens and divided by their number in the whole accumulated batch, whatever
        # the model's own forward accepts; this makes accumulation exact for every architecture.
        self.model_accepts_loss_kwargs = True
        # The saved chat template reproduces the frame of training, whoever renders it; the caller's tokenizer is not changed.
        saved = copy.copy(compat.tokenizer_of(self))
        pin_template(saved, args.system_prompt)
        self.processing_class = saved
        preparation = self._prepared_with(compat.tokenizer_of(self), args)
        frames = preparation.template.frames
        framing = [index for frame in frames for part in (frame.before, frame.between, frame.after) for index in part]
        preparation.require_embeddings(framing, "the prompt around documents")
        self.data_collator = self._collator(
            frames=frames,
            pad_token_id=compat.tokenizer_of(self).pad_token_id,
            seed=args.seed if args.data_seed is None else args.data_seed,
            masking=self._masking(base.config.get_text_config().vocab_size),
            pad_to_multiple_of=int(args.pad_to_multiple_of) if args.pad_to_multiple_of else None,
            packing=packing,
            indexed=not isinstance(train_dataset, IterableDataset),
        )
        self.add_callback(EpochCallback(self.data_collator))
        self.inputs = inputs_of(self, base, preparation.told)

    # What an objective decides.

    def _document_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        """Frames around plain documents."""
        raise NotImplementedError

    def _row_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        """Frames of a question with its answer."""
        raise NotImplementedError

    def _texts_beside(self, text: str, row: Mapping[str, Any], args: DocumentSFTConfig) -> Iterator[str]:
        """What else is learned of ``text``, a document or a piece of it under its title; as a rule nothing."""
        return iter(())

    def _masking(self, vocab_size: int) -> Masking | None:
        """What is hidden in the prompt's copy; `None` for objectives without a copy."""
        return None

    def _gaps(self, document: EncodedDocument, row: Mapping[str, Any], args: Any) -> list[Gap] | None:
        """The gaps that an infilling sample of ``document`` may have; None for objectives without such samples."""
        return None

    def _entity_report(self, args: DocumentSFTConfig) -> EntityReport | None:
        """Counts the documents without the entities that the settings need; None where the settings need none."""
        if isinstance(args, CorruptionSFTConfig) and args.mask_unit == "entity":
            return EntityReport("mask_unit entity", "their words are hidden one by one")
        return None

    def _collator(self, **options: Any) -> DocumentCollator:
        """What makes batches; ``options`` are the fields of a `DocumentCollator`."""
        return DocumentCollator(**options)

    def _check_attention(self, model: PreTrainedModel) -> None:
        """Refuse a model of the other kind: causal or bidirectional."""
        refuse_canvases(model, "train")
        if is_diffusion(model):
            raise ConfigurationError(
                f"the model is a masked diffusion model, which {type(self).__name__} cannot train: it learns to predict "
                "the next token. Train it with DiffusionSFTTrainer (recipes/dllm_ft.py, --objective diffusion), or name "
                "an autoregressive model."
            )

    def _forbidden_id(self) -> int | None:
        """A token that no document and no prompt may hold."""
        return None

    def _write_beside(self, directory: str) -> None:
        """Write what a saved model needs besides its weights into ``directory``. Called in the process that saves."""

    # Data.

    @property
    def entity_reports(self) -> dict[str, EntityReport]:
        """How many documents lack the entities that the settings need, by data set."""
        return {} if self._preparation is None else self._preparation.reports

    def _prepared_with(self, tokenizer: PreTrainedTokenizerBase, args: DocumentSFTConfig) -> Preparation:
        if self._preparation is None:
            self._preparation = Preparation(self, tokenizer, args, self._vocabulary_size)
        return self._preparation

    def _prepare_dataset(  # type: ignore[override]
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase,
        args: DocumentSFTConfig,
        packing: bool,
        formatting_func: Callable[[dict[str, Any]], str] | None,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        if formatting_func is not None:
            raise ConfigurationError("formatting_func is not supported; give rows a 'text' column instead.")
        return self._prepared_with(processing_class, args).prepare(dataset, dataset_name)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        """The library's sampler, or ours: for `group_by_length`, and where rows are shown in some epochs only."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, Dataset):
            return super()._get_train_sampler(train_dataset)
        lengths = dataset["length"] if self.args.train_sampling_strategy == "group_by_length" else None
        group_size = self.args.train_batch_size * self.args.world_size
        collator: Any = self.data_collator
        # The order's epoch is the masks'. The library's `set_epoch` does not reach a sampler of several processes after a
        # resume in the middle of an epoch.
        planned = dataset["epochs"]
        if max(dataset["turn"]) > 0 or any(planned):
            return TurnSampler(dataset["turn"], collator.seed, lambda: collator.epoch, lengths, group_size, planned)
        if lengths is None:
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(lengths, group_size, collator.seed, lambda: collator.epoch)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = list(PREPARED)  # type: ignore[assignment]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move ``inputs`` to the device. The numbers that the loss is computed with are not rounded to DeepSpeed's bf16."""
        exact = {name: inputs[name].to(self.args.device) for name in _EXACT if name in inputs}
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared | exact

    # Loss.

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
        where, shared = inputs.pop("supervised", None), inputs.pop("shared", 0)
        predictions = {name: inputs.pop(name) for name in PREDICTED if name in inputs}
        weights = inputs.pop(WEIGHTS, None)
        if return_outputs or self.label_smoother is not None:  # both need the logits of every position
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        position_ids = inputs.get("position_ids")  # only a packed batch has them
        targets = inputs.pop("labels")[:, 1:]  # (batch, length - 1); the last position predicts nothing
        if where is None:  # streamed data, or a collator of the caller's
            where, shared = supervised(inputs["input_ids"], targets).values()
        rows, positions = where
        inputs["shift_labels"] = targets[rows, positions][None]
        with self.accelerator.autocast():  # around all forward passes, for which the weights are then cast once
            if not self.args.anchor:  # what is taken out was encoded by the model as it is
                positions = positions - self._shared_prompts.take_out(inputs, shared)
            with self._supervised.at(rows, positions, padded_behind=self._unmasked and position_ids is None):
                if self._has_own_loss and model.training:
                    loss = self._own_loss(model, inputs, rows, positions, predictions, weights, num_items_in_batch)
                else:
                    loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if mask_ratio is not None:
            if position_ids is not None:
                rows = document_of_each(position_ids)[positions]
            mode = "train" if model.training else "eval"
            self._tally.add_ratios(mode, mask_ratio, rows, self._supervised.log_probs)
        return loss

    def _own_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        rows: torch.Tensor,
        positions: torch.Tensor,
        predictions: dict[str, torch.Tensor],
        weights: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The loss of a batch in which the tokens that are rehearsed have ``predictions`` for targets, each with its weight.

        All batches of a run that rehearses or practices take this way, with predictions or without: processes that share a
        model have to make the same calls.
        """
        targets = inputs.pop("shift_labels")[0]  # (supervised,)
        log_probs = model(**inputs, use_cache=False).logits[0].float().log_softmax(-1)  # (supervised, vocabulary)
        scores = scores_of(log_probs, targets)
        self._supervised.log_probs = scores.log_probs.detach()
        losses = distilled(log_probs, scores.log_probs, predictions)
        if self.args.anchor:
            before = self._untrained_log_probs(inputs, rows, positions)
            anchored = self.args.anchor * other_divergence(log_probs, before, targets)
            rehearsed = predictions.get(PREDICTED[0])
            losses = losses + (
                anchored if rehearsed is None else anchored.masked_fill(rehearsed.to(anchored.device), 0.0)
            )
        if weights is not None:
            losses = losses * weights
        counted = max(1, len(losses)) if weights is None else weights.sum()
        loss = losses.sum() / (counted if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the processes' gradients are averaged
        shown = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))  # a packed batch has no padding
        self._tally.add_scores("train", scores, shown.sum())
        return loss

    @torch.no_grad()
    def _untrained_log_probs(self, inputs: dict[str, Any], rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the untrained model says at ``positions`` of ``rows``, `(supervised, vocabulary)`."""
        if self._untrained is None:
            model: Any = self.accelerator.unwrap_model(self.model)
            with model.disable_adapter():
                return model(**inputs, use_cache=False).logits[0].float().log_softmax(-1)
        with self._untrained_supervised.at(rows, positions):
            return self._untrained(**inputs, use_cache=False).logits[0].float().log_softmax(-1)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What the loss of the whole accumulated batch is divided by: its supervised tokens, or the weights of its rows."""
        if not any(WEIGHTS in batch for batch in batch_samples):
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.stack([batch[WEIGHTS].to(device).sum() for batch in batch_samples]).sum()
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    # Steps.

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments = super()._build_accelerator_args(**kwargs)
        arguments = compat.shares_gradients(arguments, self.model, self.args.ddp_find_unused_parameters)
        return compat.reduces_in_fp32(arguments) if self.args.bf16 else arguments

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's; remembers which parameters decay."""
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        self._weight_decays = [group["weight_decay"] for group in optimizer.param_groups if group["params"]]
        return optimizer

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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the library's; remembers whether the loss is a finite number, without waiting for it."""
        loss = super().training_step(*args, **kwargs)
        self._guard.see_loss(loss)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradients, which comes before every step of the optimizer: the place to stop at."""
        norm = super()._get_grad_norm(model, grad_norm)
        self._guard.see_gradients(norm)
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As trl's, with what the steps since the last log have left on the device."""
        self._tally.settle()
        super().log(logs, *args, **kwargs)

    # The run and its checkpoints.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the library's; saves a checkpoint when told to stop, stops where training diverges, resumes its own runs only.

        A DeepSpeed checkpoint may come from another number of processes.

        Args:
            resume_from_checkpoint: A checkpoint, or whether to take the last whole one in `output_dir`.
            args, kwargs: Passed on to [`transformers.Trainer.train`].

        Raises:
            TrainingError: training diverged.
            RunStopped: after a signal, when the checkpoint is saved.
            ConfigurationError: a checkpoint cannot be written, such as on a full disk; those that were whole are left as they
                were. Or the checkpoint to resume from is of a run with other inputs, or `output_dir` holds a README.md that
                the card would replace.
        """
        self._hub.require_place_for_card()
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = from_main_process(last_whole_checkpoint(str(self.args.output_dir)))
        if isinstance(checkpoint, (str, Path)) and self.is_deepspeed_enabled:
            make_loadable(self, str(checkpoint))
        self._guard.reset()
        self._begins_at = 0
        if checkpoint and isinstance(checkpoint, (str, Path)):
            require_same_inputs(checkpoint, self.inputs)
            self._begins_at = int(recorded_state(checkpoint).get("global_step", 0))
        stopping = StopCallback(self, self._guard)
        self.add_callback(stopping)
        try:
            with stopping.listening():
                return super().train(checkpoint, *args, **kwargs)
        finally:
            self.remove_callback(stopping)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's; a run that is resumed after its last step takes no other, also in the middle of an epoch."""
        epochs, steps_of_epoch, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        if self._begins_at >= max_steps:
            epochs = min(epochs, self._begins_at // steps_of_epoch)
        return (epochs, steps_of_epoch, *others, max_steps)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and universal_folder(checkpoint) is not None:
            mend_universal(self, checkpoint, self._weight_decays)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        state: Any = self.state.stateful_callbacks
        state[INPUTS] = self.inputs
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with written_whole(self, folder):
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the library's.

        Raises:
            TrainingError: the weights are no finite numbers.
        """
        self._guard.require_finite_weights()
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with self._hub.without_token():  # the library pickles all training arguments beside the weights
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            directory = output_dir or str(self.args.output_dir)
            if Path(directory) == Path(str(self.args.output_dir)):  # the end of a run; a checkpoint is gone soon
                narrow_saved(Path(directory))
            self._hub.write_card(Path(directory))  # over the one that PEFT wrote
            self._write_beside(directory)

    # Card and Hub.

    def create_model_card(  # type: ignore[override]  # trl's signature, which is not transformers'
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the eval card to `output_dir`.

        Args:
            model_name: Ignored: base model and objective name the model.
            dataset_name: What was learned, if `results.json` does not say it.
            tags: Further tags.
        """
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            self._hub.write_card(folder, dataset_name, [tags] if isinstance(tags, str) else tags)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, or warn if the Hub cannot be asked now.

        Raises:
            ConfigurationError: `hub_model_id` names no repository, or `hub_strategy` would publish optimizer states.
            HubError: the Hub refuses.
        """
        if self.is_world_process_zero():
            self._hub.create_repository(token, private)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Push | None:
        """Save the model to `output_dir` and push that, as `kinject push` does; always waits until it is done.

        Args:
            commit_message: Of the commit.
            blocking: Ignored.
            token, revision, private: Instead of those in the arguments of the trainer.
            kwargs: Ignored: the card is written from `results.json`.

        Raises:
            ConfigurationError, HubError: as `kinject.hub.publishing.push`.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder = Path(str(self.args.output_dir))
        return self._hub.push(folder, commit_message, token=token, revision=revision, private=private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the model of a checkpoint; a failure warns, and the run goes on."""
        if self.is_world_process_zero():
            self._hub.push_checkpoint(Path(checkpoint_folder))

    # Private parts.

    def _keeps_no_masters(self) -> bool:
        """Whether the optimizer works on the weights as they are; DeepSpeed and FSDP have it work on fp32 copies."""
        return not self.is_deepspeed_enabled and not self.is_fsdp_enabled

    def _unwrapped(self) -> PreTrainedModel:
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model


def untrained_copy(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A frozen copy of ``model`` on ``device``, without what trl has put over its forward pass.

    Under DeepSpeed and FSDP the model itself is on the processor until training begins.
    """
    copied: Any = type(model)(model.config)
    copied.load_state_dict(model.state_dict())
    return copied.to(device=device, dtype=model.dtype).eval().requires_grad_(False)


def _vocabulary_size(model: str | PreTrainedModel | PeftModel, args: DocumentSFTConfig) -> int:
    """The ids that ``model`` has embeddings for, read before any document is."""
    if not isinstance(model, str):
        return int(text_config(model).vocab_size)
    options = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    config = AutoConfig.from_pretrained(
        model, revision=options.get("revision"), trust_remote_code=getattr(args, "trust_remote_code", False)
    )
    return int(config.get_text_config().vocab_size)
