"""Somebody with a browser: opens the pages, reads them, types and clicks."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect

from tests.support import Server

# The folder where pictures go; without it nowhere.
SCREENSHOTS = os.environ.get("SCREENSHOTS")
# What a browser says of a server that is away, which is no fault of the page.
_AWAY = re.compile(r"ERR_CONNECTION|WebSocket connection to|ERR_INCOMPLETE|ERR_EMPTY_RESPONSE")

# Text, grid and background are grey, or nearly.
_PAINTED = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 0; at < data.length; at += 4) {
        const colour = [...data.slice(at, at + 3)];
        const spread = Math.max(...colour) - Math.min(...colour);
        if (data[at + 3] > 200 && spread > 60) count += 1;
    }
    return count;
}"""


class Visitor:
    """Opens pages and remembers everything that the browser complains about."""

    page: Page

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.complaints: list[str] = []

    def assert_no_complaints(self) -> None:
        """No error on the console, no exception, nothing that the security policy stopped."""
        assert not self.complaints, self.complaints

    async def open(self, url: str, **options: Any) -> Page:
        """Open a page in a window of its own, with nothing remembered; return it."""
        context = await self._browser.new_context(**options)
        self.page = await context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await self.page.goto(url)
        return self.page

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not _AWAY.search(message.text):
            self.complaints.append(message.text)

    # The dashboard

    async def open_dashboard(self, server: Server, token: str, **options: Any) -> None:
        """Open the dashboard and paste a token."""
        await self.open(site(server), **options)
        await self.paste(token)
        await self.sees_state("live")

    async def paste(self, token: str) -> None:
        """Connect with a token."""
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Connect").click()

    async def sees_state(self, text: str) -> None:
        """Wait for the connection to be in a state, in the page's words."""
        await expect(self.page.get_by_role("status")).to_have_text(re.compile(f"^{text}"))

    def panel(self, title: str) -> Locator:
        """The panel of a title."""
        return self.page.get_by_role("region", name=re.compile(f"^{title}")).first

    @property
    def rows(self) -> Locator:
        """The rows of the table of events, newest first."""
        return self.page.locator("#events tbody tr")

    async def sees_numbers(self, *numbers: int) -> None:
        """Wait for the table to hold exactly the events of these ``n``, newest first."""
        await expect(self.rows.locator("summary")).to_have_text(
            [re.compile(rf'"n": ?{number}\b') for number in numbers]
        )

    async def filter(self, text: str) -> None:
        """Apply a filter to the events."""
        await self.page.get_by_label("Filter").fill(text)
        await self.page.get_by_label("Filter").press("Enter")

    async def painted(self, title: str) -> int:
        """Return how many pixels of a panel's chart have the colour of a line."""
        count: int = await self.panel(title).locator("canvas").evaluate(_PAINTED)
        return count

    async def sees_line(self, title: str) -> None:
        """Wait for a panel's chart to have a line."""
        canvas = await self.panel(title).locator("canvas").element_handle()
        await self.page.wait_for_function(_PAINTED, arg=canvas)

    async def photograph(self, name: str) -> None:
        """Take a picture of the page; if it is to be kept, when there is something to see."""
        if SCREENSHOTS:
            await self.page.wait_for_timeout(40_000)
        picture = await self.page.screenshot()
        assert picture
        if SCREENSHOTS:
            (Path(SCREENSHOTS) / f"{name}.png").write_bytes(picture)


def site(server: Server, path: str = "/") -> str:
    """Return the address of a page of a server."""
    return f"http://127.0.0.1:{server.port}{path}"
