"""The one class between an objective and `trl.SFTTrainer`: what all objectives on documents share.

It adds frames around documents, splitting instead of truncation, masks that are a pure function of (seed, epoch, sample), a
loss that runs the language-model head on supervised positions only, checkpoints that can be trusted, and an eval card.

Read it from top to bottom: it stands in the order in which things happen. Each hook of the library is a few lines long and
calls by name what does the work. The class does not know how masks are drawn, how questions are asked (a callback does that,
`kinject.evaluation.callback`), and how cards, pushes and checkpoints are made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.models.adapters import explained_refusals, require_adapter_modules
from kinject.models.diffusion import is_diffusion, refuse_canvases
from kinject.models.names import require_whole_weights
from kinject.models.weights import (
    from_main_process,
    frozen_parameters,
    frozen_routers,
    narrow_saved,
    parameter_count,
)
from kinject.prompts.encoding import pin_template
from kinject.prompts.templates import Wording
from kinject.trainers.checkpointing import (
    INPUTS,
    DivergenceGuard,
    StopCallback,
    inputs_of,
    last_whole_checkpoint,
    make_loadable,
    mend_universal,
    recorded_state,
    require_same_inputs,
    universal_folder,
    written_whole,
)
from kinject.trainers.collator import (
    EXACT,
    PREDICTED,
    WEIGHTS,
    DocumentCollator,
    EpochCallback,
    Masking,
    check_isolation,
    document_of_each,
    own_sampler,
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
from kinject.trainers.positions import SharedPrompts, SupervisedPositions, Tally
from kinject.trainers.preparation import PREPARED, Preparation, check_datasets, vocabulary_size
from kinject.trainers.rehearsal import OwnLoss, needs_own_loss
from kinject.trainers.subspace import PreservedSubspace, matrices_of

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kinject.hub.publishing import Push
    from kinject.prompts.encoding import EncodedDocument
    from kinject.trainers.collator import Packing
    from kinject.trainers.infilling import Gap


class DocumentSFTTrainer(SFTTrainer):
    """Fine-tunes on rows of `text`, `prompt`/`completion`, or `messages`; see the subclasses for the objectives.

    A row with `text` is a document: every token of it is learned, after its `title` where the text does not mention that
    (`keep_titles`). The other rows, of any form that `kinject.data.rows.conversation_of` reads, are questions with an answer:
    the question stays visible and the (last) answer is the document. Documents over `max_length` are split at sentence ends;
    an answer that does not fit is an error, since cutting it would change the target.

    Args:
        model: A causal language model, or its path.
        args: The configuration.
        train_dataset, eval_dataset: Data sets of such rows. Evaluation rows get the same masks at every evaluation.
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
    large_learning_rate = 5e-6  # the default for full models of a billion parameters or more
    args: DocumentSFTConfig
    hub_model_id: Any  # the repository, once it is known
    inputs: dict[str, Any]
    _weight_decays: list[float]  # of the optimizer's groups
    _begins_at = 0  # steps that were taken before this run

    # 1. Construction.

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
        self._require_usable(model, args, train_dataset, eval_dataset, peft_config)
        # The libraries prepare the data and create the repository while they build the trainer, so these exist before.
        self._vocabulary_size = vocabulary_size(model, args)
        self._preparation: Preparation | None = None
        self._hub = HubHooks(self)
        self._guard = DivergenceGuard(self)
        with explained_refusals():
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
        if isinstance(model, str):
            require_adapter_modules(self._unwrapped(), peft_config)
        base = self._unwrapped()
        self._check_attention(base)
        self._choose_weights(base)
        packing: Packing = "none"
        if args.packing:
            packing = "boundaries" if check_isolation(base, args.device) else "positions"
        self._choose_learning_rate(base)
        self._supervised = SupervisedPositions(base)
        self._own_loss = OwnLoss(self, base) if needs_own_loss(self) else None
        self._shared_prompts = SharedPrompts(self, base)
        self._needs_no_mask = not is_diffusion(base) and compat.needs_no_mask(self, base)
        self._tally = Tally(self)
        # The loss is summed over supervised tokens and divided by their number in the whole accumulated batch, whatever
        # the model's own forward accepts; this makes accumulation exact for every architecture.
        self.model_accepts_loss_kwargs = True
        preparation = self._pin_frames(args)
        self.data_collator = self._collator(
            frames=preparation.template.frames,
            pad_token_id=compat.tokenizer_of(self).pad_token_id,
            seed=args.seed if args.data_seed is None else args.data_seed,
            masking=self._masking(base.config.get_text_config().vocab_size),
            pad_to_multiple_of=int(args.pad_to_multiple_of) if args.pad_to_multiple_of else None,
            packing=packing,
            indexed=not isinstance(train_dataset, IterableDataset),
        )
        self.add_callback(EpochCallback(self.data_collator))
        self.inputs = inputs_of(self, base, preparation.row_tags)

    @staticmethod
    def _require_usable(model: Any, args: DocumentSFTConfig, train: Any, evaluation: Any, peft_config: Any) -> None:
        """Refuse models, adapters and data that cannot be used, before anything is loaded."""
        if getattr(peft_config, "is_prompt_learning", False):
            raise ConfigurationError(
                f"{type(peft_config).__name__} adds virtual tokens, which shift the supervised positions. "
                "Use LoRA or train the full model."
            )
        if not isinstance(model, str):
            require_adapter_modules(model, peft_config)
        check_datasets(train, evaluation)
        if isinstance(model, str) or not hasattr(model, "hf_device_map"):  # which may split it over several GPUs
            compat.check_devices(args.n_gpu)

    def _choose_weights(self, base: PreTrainedModel) -> None:
        """Freeze weights that are not trained, and keep an adapter in fp32 where its small updates would be rounded away."""
        args, adapted = self.args, base is not self.model
        for weight in (
            *frozen_parameters(base, args.frozen_modules or (), adapter=adapted),
            *frozen_routers(base, args.train_routers, adapter=adapted),
        ):
            weight.requires_grad_(False)
        if args.preserved_rank:
            require_whole_weights(adapter=adapted, sharded=not self._keeps_no_masters())
            matrices = matrices_of(base)
            for name, weight in base.named_parameters():
                weight.requires_grad_(name in matrices)
            self.add_callback(PreservedSubspace(matrices, args.preserved_rank))
        if adapted and (self._keeps_no_masters() or (getattr(base, "is_quantized", False) and not args.bf16)):
            # trl rounds adapters on quantized weights to bfloat16, and peft copies what `modules_to_save` names in the base's
            # precision. Small updates would be lost, and the model would answer differently once it is loaded again.
            for weight in filter(lambda each: each.requires_grad, base.parameters()):
                weight.data = weight.data.float()

    def _choose_learning_rate(self, base: PreTrainedModel) -> None:
        """Take the default for the model's size where none is given; refuse a rate that is too small for 16-bit weights."""
        args, adapted = self.args, base is not self.model
        if args.learning_rate is None:
            args.learning_rate = learning_rate_for(parameter_count(base), adapted, self.large_learning_rate)
            if self.is_deepspeed_enabled:  # it has read its file already, without a rate
                set_deepspeed_rate(self.accelerator.state.deepspeed_plugin.hf_ds_config, None, args.learning_rate)
        if not adapted and self._keeps_no_masters():
            require_updates(base, args)

    def _pin_frames(self, args: DocumentSFTConfig) -> Preparation:
        """Save the frame of training in the tokenizer, and refuse one with tokens that the model has no embedding for."""
        preparation = self._prepared_with(compat.tokenizer_of(self), args)
        # Whoever renders the saved chat template gets the frame of training. The caller's tokenizer is not changed.
        self.processing_class = saved = copy.copy(compat.tokenizer_of(self))
        pin_template(saved, args.system_prompt)
        preparation.require_framed()
        return preparation

    def _keeps_no_masters(self) -> bool:
        """Whether the optimizer works on the weights as they are; DeepSpeed and FSDP have it work on fp32 copies."""
        return not self.is_deepspeed_enabled and not self.is_fsdp_enabled

    def _unwrapped(self) -> PreTrainedModel:
        """The model without its adapter."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    # 2. What an objective decides.

    def _document_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        """Frames around plain documents."""
        raise NotImplementedError

    def _row_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        """Frames of a question with its answer."""
        raise NotImplementedError

    def _texts_beside(self, text: str, row: Mapping[str, Any], args: DocumentSFTConfig) -> Iterator[str]:
        """Further texts to learn beside ``text``, a document or a piece of one under its title; none for most objectives."""
        return iter(())

    def _masking(self, vocab_size: int) -> Masking | None:
        """How the copy of the document in the prompt is masked; None for objectives without such a copy."""
        return None

    def _gaps(self, document: EncodedDocument, row: Mapping[str, Any], args: Any) -> list[Gap] | None:
        """The gaps that an infilling sample of ``document`` may have; None for objectives without such samples."""
        return None

    def _entity_report(self, args: DocumentSFTConfig) -> EntityReport | None:
        """A new counter of documents without the entities that the settings need; None where the settings need none."""
        if isinstance(args, CorruptionSFTConfig) and args.mask_unit == "entity":
            return EntityReport("mask_unit entity", "their words are hidden one by one")
        return None

    def _collator(self, **options: Any) -> DocumentCollator:
        """What makes batches; ``options`` are the fields of a `DocumentCollator`."""
        return DocumentCollator(**options)

    def _check_attention(self, model: PreTrainedModel) -> None:
        """Refuse a model whose attention is of the other kind: causal or bidirectional."""
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

    # 3. Prepare: rows to framed and split samples, while the library builds the trainer.

    @property
    def entity_reports(self) -> dict[str, EntityReport]:
        """How many documents lack the entities that the settings need, by data set."""
        return {} if self._preparation is None else self._preparation.reports

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

    def _prepared_with(self, tokenizer: PreTrainedTokenizerBase, args: DocumentSFTConfig) -> Preparation:
        if self._preparation is None:
            self._preparation = Preparation(self, tokenizer, args, self._vocabulary_size)
        return self._preparation

    # 4. Run: begin, or go on from a checkpoint.

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
        """As the library's; a run that is resumed after its last step takes no further one, also in the middle of an epoch."""
        epochs, steps_of_epoch, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        if self._begins_at >= max_steps:
            epochs = min(epochs, self._begins_at // steps_of_epoch)
        return (epochs, steps_of_epoch, *others, max_steps)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments = super()._build_accelerator_args(**kwargs)
        arguments = compat.shares_gradients(arguments, self.model, self.args.ddp_find_unused_parameters)
        return compat.reduces_in_fp32(arguments) if self.args.bf16 else arguments

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's; remembers the weight decay of each group, which a universal DeepSpeed checkpoint loses."""
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        self._weight_decays = [group["weight_decay"] for group in optimizer.param_groups if group["params"]]
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As the library's; `num_decay_steps` of `warmup_stable_decay` may be a share of all steps, a fifth if left out."""
        given: Any = self.args.lr_scheduler_kwargs
        options = dict(given or {})
        if self.args.lr_scheduler_type == "warmup_stable_decay":
            decay = options.get("num_decay_steps", 0.2)
            options["num_decay_steps"] = max(1, int(num_training_steps * decay)) if decay < 1 else decay
            self.args.lr_scheduler_kwargs = options
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        finally:
            self.args.lr_scheduler_kwargs = given  # another trainer may be given the same arguments

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and universal_folder(checkpoint) is not None:
            mend_universal(self, checkpoint, self._weight_decays)

    # 5. Batch: which samples, in which order, on which device.

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        """The library's sampler, or ours: for `group_by_length`, and where rows are shown in some epochs only."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        own = own_sampler(dataset, self.args, self.data_collator) if isinstance(dataset, Dataset) else None
        return super()._get_train_sampler(train_dataset) if own is None else own

    def _set_signature_columns_if_needed(self) -> None:
        """Let the columns of a prepared data set reach the collator; the library would drop what `forward` does not take."""
        if self._signature_columns is None:
            self._signature_columns = list(PREPARED)  # type: ignore[assignment]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move ``inputs`` to the device. The numbers that the loss is computed with are not rounded to DeepSpeed's bf16."""
        exact = {name: inputs[name].to(self.args.device) for name in EXACT if name in inputs}
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared | exact

    # 6. Loss, and the step that follows it.

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """trl's loss and metrics, with only the supervised positions projected through the head.

        Where predictions are rehearsed, rows are weighed or `anchor` is set, the loss is that of `rehearsal.OwnLoss`.
        """
        mask_ratio = inputs.pop("mask_ratio", None)
        where, shared = inputs.pop("supervised", None), inputs.pop("shared", None)
        predictions = {name: inputs.pop(name) for name in PREDICTED if name in inputs}
        weights = inputs.pop(WEIGHTS, None)
        if return_outputs or self.label_smoother is not None:  # both need the logits of every position
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        position_ids = inputs.get("position_ids")  # only a packed batch has them
        targets = inputs.pop("labels")[:, 1:]  # (batch, length - 1); the last position predicts nothing
        if where is None:  # streamed data, or a collator of the caller's
            where, shared = supervised(inputs["input_ids"], targets).values()
        rows, positions = where
        inputs["shift_labels"] = targets[rows, positions][None]  # (1, supervised)
        mode = "train" if model.training else "eval"
        with self.accelerator.autocast():  # around all forward passes, so that weights are cast once
            if not self.args.anchor:  # the untrained model cannot use keys and values of the trained one
                positions = positions - self._shared_prompts.take_out(inputs, shared)
            with self._supervised.at(rows, positions, padded_behind=self._needs_no_mask and position_ids is None):
                if self._own_loss is None or not model.training:
                    loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
                else:
                    loss, scores = self._own_loss(
                        model, inputs, (rows, positions), predictions, weights, num_items_in_batch
                    )
                    self._supervised.log_probs = scores.log_probs.detach()
                    shown = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))  # packed: no padding
                    self._tally.add_scores(mode, scores, shown.sum())
        if mask_ratio is not None:
            if position_ids is not None:
                rows = document_of_each(position_ids)[positions]
            self._tally.add_ratios(mode, mask_ratio, rows, self._supervised.log_probs)
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What the loss of the whole accumulated batch is divided by: its supervised tokens, or the weights of its rows."""
        if not any(WEIGHTS in batch for batch in batch_samples):
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.stack([batch[WEIGHTS].to(device).sum() for batch in batch_samples]).sum()
        if self.args.average_tokens_across_devices:
            total = self.accelerator.gather(total).sum()
        return total

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the library's; remembers whether the loss is a finite number, without waiting for the device."""
        loss = super().training_step(*args, **kwargs)
        self._guard.see_loss(loss)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradients. The library asks for it before every step of the optimizer: the place to stop at."""
        norm = super()._get_grad_norm(model, grad_norm)
        self._guard.see_gradients(norm)
        return norm

    # 7. Log. Questions are asked at every evaluation, by a callback.

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As trl's, with the figures that the steps since the last log have left on the device."""
        self._tally.settle()
        super().log(logs, *args, **kwargs)

    # 8. Save: checkpoints, and the model at the end.

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        state: Any = self.state.stateful_callbacks
        state[INPUTS] = self.inputs
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with written_whole(self, folder):
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the library's.

        Raises:
            TrainingError: the weights are not finite numbers.
        """
        self._guard.require_finite_weights()
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with self._hub.without_token():  # the library pickles all training arguments beside the weights
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            directory = output_dir or str(self.args.output_dir)
            if Path(directory) == Path(str(self.args.output_dir)):  # the end of a run; a checkpoint does not stay long
                narrow_saved(Path(directory))
            self._hub.write_card(Path(directory))  # over the one that PEFT wrote
            self._write_beside(directory)

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

    # 9. Push. The repository is created while the library builds the trainer, so that a refusal costs no training.

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
