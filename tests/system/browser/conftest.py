"""A real Chromium, and pages that notice what goes wrong in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

from tests.system.browser.visitor import Visitor

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, without anything kept from before."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH; on Debian: apt-get install chromium")
    async with async_playwright() as playwright:
        # Chromium's sandbox does not work for root.
        launched = await playwright.chromium.launch(
            executable_path=CHROMIUM, chromium_sandbox=os.getuid() != 0
        )
        yield launched
        await launched.close()


@pytest.fixture
async def visitor(browser: Browser) -> AsyncIterator[Visitor]:
    """Somebody with a browser."""
    visitor = Visitor(browser)
    yield visitor
    visitor.assert_no_complaints()
