"""The license of a base model, from its own card: what comes with kinject, the Hub cache, or the Hub itself."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.request import urlopen

from kinject.models.loading import EMBEDDED_HUB_ID, NANO_MODELS

_KNOWN = {EMBEDDED_HUB_ID: "apache-2.0", **dict.fromkeys(NANO_MODELS, "apache-2.0")}
_SECONDS = 5.0
_LONGEST = 1_000_000  # bytes of a card that are read


def base_license(base: str) -> dict[str, str]:
    """``license``, and ``license_name`` and ``license_link`` of one that the Hub does not know; empty if unknown."""
    if base in _KNOWN:
        return {"license": _KNOWN[base]}
    return dict(_from_card(base))


@lru_cache(maxsize=64)  # a card is written at every checkpoint
def _from_card(base: str) -> tuple[tuple[str, str], ...]:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    text = _card_text(base)
    if text is None:
        return ()
    try:
        data = ModelCard(text, ignore_metadata_errors=True).data
    except (ValueError, YAMLError):  # its metadata cannot be read
        return ()
    found = {name: data.get(name) for name in ("license", "license_name", "license_link")}
    plain = {name: value for name, value in found.items() if isinstance(value, str) and len(value) <= 200}
    return tuple(plain.items()) if "license" in plain else ()


def _card_text(base: str) -> str | None:
    from huggingface_hub import constants, try_to_load_from_cache

    cached = try_to_load_from_cache(base, "README.md")
    try:
        if isinstance(cached, str):
            return Path(cached).read_text(encoding="utf-8", errors="replace")
        if constants.HF_HUB_OFFLINE:
            return None
        # One plain request, without a token: the Hub's own client tries for half a minute where there is no network.
        with urlopen(f"{constants.ENDPOINT}/{base}/resolve/main/README.md", timeout=_SECONDS) as response:
            return str(response.read(_LONGEST).decode("utf-8", errors="replace"))
    except OSError:
        return None
