"""The model card of the trainers: kinject's eval card, at every save, instead of the libraries' forms.

trl's card says nothing of what was measured, and PEFT writes one beside every adapter that names its base model by its
local path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import HubStrategy

from kinject.errors import ConfigurationError, HubError, KinjectError
from kinject.trainers.checkpointing import CheckpointingTrainer

if TYPE_CHECKING:
    from kinject.hub.publishing import Push


# == `push_to_hub` of the trainers: what `kinject push` publishes, under the library's own arguments.


class HubPushingTrainer(CheckpointingTrainer):
    """Takes `push_to_hub`, `hub_model_id`, `hub_private_repo`, `hub_token`, `hub_revision` and `hub_strategy`.

    A token that is missing or refused ends the run before it trains. After that a failure costs no training: a push
    from a checkpoint (`hub_strategy` `every_save`) only warns, the last one raises once all files are written.
    """

    hub_model_id: Any  # the repository, once it is known

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, or warn if the Hub cannot be asked now.

        Raises:
            ConfigurationError: `hub_model_id` names no repository, or `hub_strategy` would publish optimizer states.
            HubError: the Hub refuses.
        """
        from kinject.hub.publishing import check_repository_name, explained, prepare_repository

        if not self.is_world_process_zero():
            return
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ConfigurationError(
                f"hub_strategy '{HubStrategy(self.args.hub_strategy).value}' would publish optimizer states. Use 'every_save', "
                "which pushes the model at every save, or 'end'."
            )
        named = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        wanted = self.args.hub_private_repo if private is None else private
        chosen = token or self.args.hub_token
        with explained(named, "Nothing was trained yet; leave --push_to_hub out to train without it."):
            repository = named if "/" in named else f"{_user(chosen)}/{named}"
        check_repository_name(repository)
        try:
            with explained(repository, "Nothing was trained yet; leave --push_to_hub out to train without it."):
                prepare_repository(repository, private=bool(wanted), revision=self.args.hub_revision, token=chosen)
        except HubError as error:
            if not error.transient:
                raise
            _warn(f"{error} Training goes on; the model is pushed later.")
        self.hub_model_id = repository
        self.push_in_progress = None

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
            ConfigurationError: as `kinject.hub.publishing.push`.
            HubError: the same.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        return self._push(
            Path(str(self.args.output_dir)), commit_message, token=token, revision=revision, private=private
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save without the access token: the library pickles all training arguments beside the weights."""
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the model of a checkpoint; a failure warns, and the run goes on."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        try:
            self._push(Path(checkpoint_folder), f"Training in progress, step {self.state.global_step}")
        except KinjectError as error:
            _warn(str(error))

    def _push(
        self,
        directory: Path,
        message: str | None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> Push:
        from kinject.hub.publishing import push

        return push(
            directory,
            self.hub_model_id,
            private=bool(self.args.hub_private_repo if private is None else private),
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
            message=message,
            report=self.args.output_dir,
        )


def _user(token: str | None) -> str:
    """Whose token it is."""
    from huggingface_hub import whoami

    return str(whoami(token)["name"])


def _warn(message: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(f"warning: {message}")


class CardWritingTrainer(HubPushingTrainer):
    """Writes the eval card to `output_dir` and beside all saved weights, from the `results.json` in `output_dir`.

    Without a `QuestionAnsweringCallback` there is none; the card then says what was trained, and that nothing is known of
    what it learned.
    """

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
            self._write_card(Path(str(self.args.output_dir)), dataset_name, [tags] if isinstance(tags, str) else tags)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self._write_card(Path(output_dir or str(self.args.output_dir)))

    def _write_card(self, directory: Path, dataset_name: str | None = None, tags: list[str] | None = None) -> None:
        from kinject.evaluation.results import read_results
        from kinject.hub.card import write_card

        file = Path(str(self.args.output_dir)) / "results.json"
        results = read_results(file) if file.is_file() else self._unmeasured(dataset_name)
        if results["objective"] == "unknown":  # a callback of its own, which was told nothing
            known = self._unmeasured(dataset_name)
            results |= {
                name: known[name] for name in ("objective", "model", "model_source", "dataset", "seed", "config")
            }
        write_card(
            directory,
            repository=self.hub_model_id,
            results=results,
            tags=tags or (),
        )

    def _unmeasured(self, dataset_name: str | None) -> dict[str, Any]:
        """What is known of a run without `results.json`."""
        from kinject.evaluation.results import changed_settings, new_results
        from kinject.trainers.document_config import objective_name

        model: Any = self.accelerator.unwrap_model(self.model)
        name = str(getattr(model.config, "_name_or_path", "") or "unknown")
        local = Path(name).exists()
        results = new_results(
            objective=objective_name(self.args),  # type: ignore[arg-type]
            model=Path(name).absolute().name if local else name,
            dataset=dataset_name or "unknown",
            seed=self.args.seed,
            config={**changed_settings(self.args), "use_peft": hasattr(model, "peft_config")},
            model_source="directory" if local else "hub",
        )
        results["train"] |= {"steps": self.state.global_step, "tokens": int(self.state.num_input_tokens_seen)}
        return results
