"""The model card of the trainers: kinject's eval card, at every save, instead of the libraries' forms.

trl's card says nothing of what was measured, and PEFT writes one beside every adapter that names its base model by its
local path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinject.trainers.hub_pushing import HubPushingTrainer


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
        from kinject.hub.card import write_card
        from kinject.results import read_results

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
        from kinject.objectives import objective_name
        from kinject.results import changed_settings, new_results

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
