"""Masked diffusion models in lm-evaluation-harness: the model ``kinject-diffusion``, which answers and scores.

    python -m kinject.evaluation.lm_eval run --model kinject-diffusion --model_args pretrained=user/repo \\
        --include_path recipes/lm_eval --tasks kinject_forward,kinject_backward --apply_chat_template

Importing this module registers the model; run as above it is the harness's own command line. Autoregressive models do not need
it, since the harness has ``hf`` for them. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lm_eval.models  # noqa: F401  # the harness fills its registry only while that is empty
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from kinject.errors import ConfigurationError
from kinject.evaluation.asking import answer_ends, answer_log_likelihood, evaluating
from kinject.evaluation.generating import until_end
from kinject.models import load_model
from kinject.models.devices import device_and_dtype, place
from kinject.models.diffusion import diffusion_settings, refuse_canvases
from kinject.prompts.encoding import begin_of_text_ids, pin_template
from kinject.prompts.templates import QuestionTemplate
from kinject.sampling import sample
from kinject.sampling.config import SamplingArguments

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_DEFAULT_LENGTH = 128


@register_model("kinject-diffusion")
class DiffusionLM(LM):
    """A masked diffusion model, adapter or not, as lm-evaluation-harness asks it.

    Args:
        pretrained: One of kinject's names, a directory or a Hub id.
        batch_size: Rows of a forward pass.
        device: Where it runs; default: the accelerator, if there is one.
        dtype: Of the weights; default: float32 on the processor, bfloat16 on an accelerator that computes in it.
        revision: Of a Hub repository.
        sampling, sampling_steps, block_length: As in `kinject eval`.
        samples: Maskings that a log-likelihood is estimated from.
        max_length, max_batch_size: Ignored; the harness passes them to every model.

    Raises:
        ConfigurationError: the model is autoregressive, or cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 32,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        sampling: str = "fast",
        sampling_steps: int | None = None,
        block_length: int | None = None,
        samples: int = 128,
        max_length: int | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._device, native = device_and_dtype(device)
        options: dict[str, Any] = {"dtype": dtype or native or "float32"} | ({"revision": revision} if revision else {})
        loaded = load_model(pretrained, **options)
        refuse_canvases(loaded.model, "ask in lm-eval")
        if not loaded.is_diffusion:
            raise ConfigurationError(
                f"model '{loaded.name}' is autoregressive; kinject-diffusion asks masked diffusion models. Use --model hf."
            )
        place(loaded.model, self._device)
        self.model: Any = loaded.model
        self.tokenizer: Any = loaded.tokenizer
        pin_template(self.tokenizer)  # the frame that kinject asks in
        self.name = loaded.name
        self.batch_size = 32 if str(batch_size).startswith("auto") else int(batch_size)
        self._samples = int(samples)
        steps = None if sampling_steps is None else int(sampling_steps)
        self._sampling = SamplingArguments(sampling, steps, None if block_length is None else int(block_length))
        self._sampling.require_blocks_of(diffusion_settings(self.model).block_length)
        self._ends = answer_ends(self.model, self.tokenizer, QuestionTemplate(self.tokenizer))
        self._begin = begin_of_text_ids(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """The name under which the harness caches prompts."""
        return self.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's chat template; another is not supported."""
        return str(self.tokenizer.chat_template) if chat_template and self.tokenizer.chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text."""
        rendered = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(rendered)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut at their end token and at the task's stop texts; sampling settings of the task do not apply."""
        answers = [""] * len(requests)
        by_length: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            length = int(request.args[1].get("max_gen_toks", _DEFAULT_LENGTH))
            by_length.setdefault(length, []).append(index)
        for length, indices in by_length.items():
            prompts = [self._encode(requests[index].args[0]) for index in indices]
            with evaluating(self.model):
                sampled = sample(
                    self.model,
                    prompts,
                    self._sampling.sampling_config(length),
                    end_ids=self._ends,
                    batch_size=self.batch_size,
                )
            for index, ids in zip(indices, sampled.ids, strict=True):
                text = self.tokenizer.decode(until_end(ids, self._ends), skip_special_tokens=True)
                answers[index] = _until(text, requests[index].args[1].get("until") or [])
        return answers

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Lower bounds on the log-likelihood of each continuation, in nats; whether it is the greedy one is always False."""
        pairs = [(self._encode(context), self._plain(continuation)) for context, continuation in _arguments(requests)]
        found = answer_log_likelihood(
            self.model,
            [prompt for prompt, _ in pairs],
            [answer for _, answer in pairs],
            samples=self._samples,
            batch_size=self.batch_size,
        )
        return [(each, False) for each in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Lower bounds on the log-likelihood of whole texts, in nats; each text must fit the model."""
        texts = [self._plain(text) for (text,) in _arguments(requests)]
        return answer_log_likelihood(
            self.model, [self._begin] * len(texts), texts, samples=self._samples, batch_size=self.batch_size
        )

    def _encode(self, context: str) -> list[int]:
        """Ids of a prompt; a rendered conversation brings its own token for the beginning of a text."""
        ids = self._plain(context)
        return ids if not self._begin or ids[:1] == self._begin or self.tokenizer.chat_template else self._begin + ids

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def _arguments(requests: Sequence[Instance]) -> list[tuple[str, ...]]:
    return [request.args for request in requests]


def _until(text: str, stops: str | Sequence[str]) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        if stop:
            text = text.split(stop)[0]
    return text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
