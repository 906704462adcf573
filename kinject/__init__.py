"""kinject: teach a language model new documents by masked fine-tuning, and ask about them from any side.

Public names are imported on first use, so that `import kinject` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


_PUBLIC = {
    "KnowledgeSet": "kinject.data",
    "load_knowledge": "kinject.data",
    "load": "kinject.models.loading",
    "load_model": "kinject.models",
    "push": "kinject.hub.publishing",
    "save_model": "kinject.models",
    "to_diffusion": "kinject.models",
    "answer_questions": "kinject.evaluation.asking",
    "score_answers": "kinject.evaluation.measures",
    "QuestionAnsweringCallback": "kinject.evaluation.callback",
    "measure_retention": "kinject.evaluation.retention",
    "answer_log_likelihood": "kinject.evaluation.asking",
    "DiffusionSFTConfig": "kinject.trainers",
    "DiffusionSFTTrainer": "kinject.trainers",
    "MaskedSFTConfig": "kinject.trainers",
    "MaskedSFTTrainer": "kinject.trainers",
    "PlainSFTConfig": "kinject.trainers",
    "PlainSFTTrainer": "kinject.trainers",
    "KinjectError": "kinject.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kinject' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
