"""A real browser for tests: the Chromium of this machine, driven by playwright. Without one these tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE = 300_000.0  # milliseconds; a busy machine is no failure
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium brings one")


@dataclass
class Visit:
    """A page that is open, with all it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)


@contextmanager
def visiting(address: str | Path, **options: Any) -> Iterator[Visit]:
    """Open ``address``, a file or a URL; ``options`` are those of a browser context, as ``color_scheme``."""
    from playwright.sync_api import sync_playwright

    url = address.absolute().as_uri() if isinstance(address, Path) else address
    with sync_playwright() as playwright:
        # In a container, as in CI, Chromium cannot set up its own sandbox; nothing but our own pages is opened.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=_PATIENCE
        )
        try:
            page = browser.new_page(**{"viewport": {"width": 1200, "height": 1300}, **options})
            page.set_default_timeout(_PATIENCE)
            visit = Visit(page)
            page.on("console", lambda message: visit.said.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: visit.said.append(f"error: {error}"))
            page.on("request", lambda request: visit.requested.append(request.url))
            page.goto(url)
            yield visit
        finally:
            browser.close()
