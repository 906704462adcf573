"""Of several processes none waits for a push: the model is pushed at the end of the run alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.trainer_utils import HubStrategy

from kinject.trainers.hub_hooks import HubHooks


@pytest.mark.parametrize(("processes", "pushed"), [(1, 1), (2, 0)])
def test_checkpoints_are_pushed_by_a_process_alone(
    processes: int, pushed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = SimpleNamespace(
        hub_strategy=HubStrategy.EVERY_SAVE,
        world_size=processes,
        hub_model_id="ada/people",
        hub_token=None,
        hub_private_repo=False,
        hub_revision=None,
        output_dir=str(tmp_path),
    )
    handler = SimpleNamespace(on_push_begin=lambda *_: None)
    trainer: Any = SimpleNamespace(
        args=args, state=SimpleNamespace(global_step=3), control=None, callback_handler=handler, hub_model_id=None
    )
    calls: list[Any] = []
    monkeypatch.setattr("kinject.hub.publishing.push", lambda *given, **_: calls.append(given))
    monkeypatch.setattr("kinject.hub.publishing.prepare_repository", lambda *_, **__: None)
    hooks = HubHooks(trainer)
    hooks.create_repository(None, None)
    assert ("the model is pushed at the end of the run alone" in capsys.readouterr().out) == (processes == 2)
    hooks.push_checkpoint(tmp_path)
    assert len(calls) == pushed
    hooks.push(tmp_path, "End of training")
    assert len(calls) == pushed + 1
