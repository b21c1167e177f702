"""The browser that pages are looked at in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reports.browser import CHROMIUM, Browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
