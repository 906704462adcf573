"""`push_to_hub` of the trainers: what `kinject push` publishes, under the library's own arguments.

transformers would upload the whole `output_dir`, training arguments included, and end a run whose upload fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import HubStrategy

from kinject.errors import ConfigurationError, HubError, KinjectError
from kinject.trainers.checkpointing import CheckpointingTrainer

if TYPE_CHECKING:
    from kinject.hub.publishing import Push


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
        from kinject.hub.failures import explained
        from kinject.hub.publishing import check_repository_name, prepare_repository

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
