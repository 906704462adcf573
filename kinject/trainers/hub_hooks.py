"""A trainer's pushes to the Hub and its eval card, under the library's own arguments and methods.

They replace the libraries' own for three reasons. transformers uploads the whole `output_dir`, training arguments included, and
ends a run whose upload fails. trl's card does not say what was measured. PEFT's card, beside every adapter, names the base
model by its local path. Of the trainers' modules this one alone knows the Hub; it knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import HubStrategy

from kinject import compat
from kinject.errors import ConfigurationError, HubError, KinjectError
from kinject.evaluation.results import is_card

if TYPE_CHECKING:
    from trl import SFTTrainer

    from kinject.hub.publishing import Push


class HubHooks:
    """Creates the repository, pushes, and writes cards for ``trainer``; made before the libraries build it.

    A token that is missing or refused ends the run before it trains. Later failures cost no training: a push from a
    checkpoint (`hub_strategy` `every_save`) only warns, and the last push raises after all files are written.
    """

    def __init__(self, trainer: SFTTrainer) -> None:
        self._trainer: Any = trainer

    # The repository.

    def create_repository(self, token: str | None, private: bool | None) -> None:
        """Create the repository, or warn if the Hub cannot be asked now; the main process calls this.

        Raises:
            ConfigurationError: `hub_model_id` names no repository, or `hub_strategy` would publish optimizer states.
            HubError: the Hub refuses.
        """
        from kinject.hub.publishing import check_repository_name, explained, prepare_repository

        args = self._trainer.args
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ConfigurationError(
                f"hub_strategy '{HubStrategy(args.hub_strategy).value}' would publish optimizer states. Use 'every_save', "
                "which pushes the model at every save, or 'end'."
            )
        named = args.hub_model_id or Path(str(args.output_dir)).absolute().name
        chosen = token or args.hub_token
        cure = "Nothing was trained yet; leave --push_to_hub out to train without it."
        with explained(named, cure):
            repository = named if "/" in named else f"{_user(chosen)}/{named}"
        check_repository_name(repository)
        try:
            with explained(repository, cure):
                wanted = args.hub_private_repo if private is None else private
                prepare_repository(repository, private=bool(wanted), revision=args.hub_revision, token=chosen)
        except HubError as error:
            if not error.transient:
                raise
            _warn(f"{error} Training goes on; the model is pushed later.")
        if args.world_size > 1 and args.hub_strategy == HubStrategy.EVERY_SAVE:
            _warn(
                f"{args.world_size} processes would wait for each push; the model is pushed at the end of the run alone."
            )
        self._trainer.hub_model_id = repository
        self._trainer.push_in_progress = None

    def push(
        self,
        directory: Path,
        message: str | None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> Push:
        """Publish ``directory`` as `kinject push` does, with the report in `output_dir`.

        Raises:
            ConfigurationError, HubError: as `kinject.hub.publishing.push`.
        """
        from kinject.hub.publishing import push

        args = self._trainer.args
        return push(
            directory,
            self._trainer.hub_model_id,
            private=bool(args.hub_private_repo if private is None else private),
            revision=revision or args.hub_revision,
            token=token or args.hub_token,
            message=message,
            report=args.output_dir,
        )

    def push_checkpoint(self, folder: Path) -> None:
        """Push the model of a checkpoint; a failure warns, and the run goes on. The main process calls this.

        With several processes nothing is pushed before the end: the others would wait in NCCL, which ends a run after
        `ddp_timeout`.
        """
        trainer = self._trainer
        if trainer.args.hub_strategy == HubStrategy.END or trainer.args.world_size > 1:
            return
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
        try:
            self.push(folder, f"Training in progress, step {trainer.state.global_step}")
        except KinjectError as error:
            _warn(str(error))

    @contextmanager
    def without_token(self) -> Iterator[None]:
        """Take the access token out of the training arguments, which the library pickles beside the weights."""
        args = self._trainer.args
        token, args.hub_token = args.hub_token, None
        try:
            yield
        finally:
            args.hub_token = token

    # The card.

    def require_place_for_card(self) -> None:
        """Refuse an `output_dir` whose README.md kinject did not write, before anything is trained.

        Raises:
            ConfigurationError: there is one.
        """
        file = Path(str(self._trainer.args.output_dir)) / "README.md"
        if file.exists() and file.stat().st_size and not is_card(file):
            raise ConfigurationError(
                f"{file}: kinject did not write this file, and would put the model's card in its place. Move it, or name "
                "another output_dir."
            )

    def write_card(self, directory: Path, dataset_name: str | None = None, tags: list[str] | None = None) -> None:
        """Write the eval card into ``directory``, from the `results.json` in `output_dir`.

        A run without a `QuestionAnsweringCallback` has no such file; its card then says what was trained, and that the
        knowledge was not measured.
        """
        from kinject.evaluation.results import read_results
        from kinject.hub.card import write_card

        file = Path(str(self._trainer.args.output_dir)) / "results.json"
        results = read_results(file) if file.is_file() else self._unmeasured(dataset_name)
        if results["objective"] == "unknown":  # written by a callback that was not told what is trained
            known = self._unmeasured(dataset_name)
            results |= {
                name: known[name] for name in ("objective", "model", "model_source", "dataset", "seed", "config")
            }
        write_card(directory, repository=self._trainer.hub_model_id, results=results, tags=tags or ())

    def _unmeasured(self, dataset_name: str | None) -> dict[str, Any]:
        """What the trainer itself knows of a run without a `results.json`, in that form."""
        from kinject.evaluation.results import changed_settings, new_results
        from kinject.trainers.document_config import objective_name

        trainer = self._trainer
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        name = compat.name_or_path(model) or "unknown"
        local = Path(name).exists()
        results = new_results(
            objective=objective_name(trainer.args),
            model=Path(name).absolute().name if local else name,
            dataset=dataset_name or "unknown",
            seed=trainer.args.seed,
            config={**changed_settings(trainer.args), "use_peft": hasattr(model, "peft_config")},
            model_source="directory" if local else "hub",
        )
        results["train"] |= {
            "steps": trainer.state.global_step,
            "tokens": int(trainer.state.num_input_tokens_seen),
        }
        return results


def _user(token: str | None) -> str:
    """The name of the account that the token belongs to."""
    from huggingface_hub import whoami

    return str(whoami(token)["name"])


def _warn(message: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(f"warning: {message}")
