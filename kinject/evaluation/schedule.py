"""At which steps of a training run questions are asked."""

from __future__ import annotations


def log_spaced_steps(max_steps: int, evaluations: int, first: int = 1) -> list[int]:
    """``evaluations`` steps from ``first`` to ``max_steps``, evenly spaced on a logarithmic axis, without repeats.

    Fewer where fewer steps lie between. The last is always ``max_steps``. A pure function, so that a resumed run asks
    at the steps at which the uninterrupted run would.

    Args:
        max_steps: steps of the whole run.
        evaluations: how many steps to return; 0 returns none.
        first: the first of them.
    """
    first = min(max(first, 1), max_steps)
    count = min(evaluations, max_steps - first + 1)
    if count < 2:
        return [max_steps] if count == 1 else []
    steps: list[int] = []
    for index in range(count):
        spaced = round(first * (max_steps / first) ** (index / (count - 1)))
        steps.append(max(spaced, steps[-1] + 1) if steps else spaced)
    return steps


def question_steps(max_steps: int, epochs: float, evaluations: int, every: int | None = None) -> list[int]:
    """Log-spaced steps from the end of the first epoch to the end of training (the paper evaluates at such epochs).

    With ``every``, instead one step in so many, and the last.

    With fewer epochs than ``evaluations`` an epoch is too long a first interval: then each interval doubles the one
    before it, back from the end, so that the first steps of a single long epoch are seen as well.
    """
    if every is not None:
        return sorted({*range(every, max_steps, every), max_steps})
    steps_per_epoch = round(max_steps / epochs) if epochs > 0 else max_steps
    doubling = round(max_steps / 2 ** max(evaluations - 1, 0))
    return log_spaced_steps(max_steps, evaluations, steps_per_epoch if epochs >= evaluations else doubling)
