"""The dashboard in Chromium while messages come: does it stay smooth, and does it show them all?

Frames are timed in the page with ``requestAnimationFrame``; blocked is the share of the time that
the page's thread spends in tasks of more than 50 ms, which people notice. A key is pressed ten
times a run: how long until the page shows it. Server and publisher have one core, Chromium another,
and draws without a graphics card.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.async_api import Page, async_playwright, expect

from benchmarks import machine, report
from tests.support import Server, running
from tests.system.browser.conftest import CHROMIUM

RATES = (0, 100, 500, 1000, 2000)
BATCHES = 20  # a second
# Of each twenty messages.
MIX = {"events": 12, "metrics": 4, "aggregations": 2, "alerts": 1, "predictions": 1}
KEYS = 10
# Milliseconds until the last message is shown.
TIMEOUT = 20_000

WATCH = """() => {
    const watch = window.watch = { frames: [], blocked: 0 };
    let last = performance.now();
    const frame = now => {
        watch.frames.push(now - last);
        last = now;
        watch.handle = requestAnimationFrame(frame);
    };
    watch.handle = requestAnimationFrame(frame);
    new PerformanceObserver(list => {
        for (const { duration } of list.getEntries()) watch.blocked += duration;
    }).observe({ type: "longtask" });
}"""

PRESS = """() => new Promise(resolve => {
    const start = performance.now();
    const button = document.querySelector("#pause");
    button.click();
    requestAnimationFrame(() => setTimeout(() => {
        resolve(performance.now() - start);
        button.click();
    }));
})"""


def payload(kind: str, number: int) -> dict[str, Any]:
    """Return a payload as the demo has them: 200 to 300 bytes."""
    return {
        "event_type": kind,
        "name": "load",
        "n": number,
        "severity": "warning",
        "message": f"message {number} of many",
        "value": (number * 7919) % 1000 / 10,
        "source": f"source-{number % 6}",
        "payload": {"carrier": "UA", "flight": number % 3000, "origin": "JFK", "dest": "SFO"},
    }


async def publish(server: Server, rate: int, seconds: float) -> dict[str, int]:
    """Publish so many messages a second; return how many of each type."""
    sent = dict.fromkeys(MIX, 0)
    start = time.monotonic()
    for batch in range(int(seconds * BATCHES)):
        await asyncio.sleep(max(0.0, start + batch / BATCHES - time.monotonic()))
        for kind, share in MIX.items():
            due = rate * (batch + 1) * share // (BATCHES * sum(MIX.values()))
            payloads = [payload(kind, number) for number in range(sent[kind], due)]
            sent[kind] = due
            if payloads:
                await asyncio.to_thread(server.publish, kind, *payloads)
    return sent


async def measure(page: Page, server: Server, rate: int, seconds: float) -> dict[str, float]:
    """Return the figures of a page for one rate."""
    await page.reload()
    await page.wait_for_selector('#state[data-state="open"]')
    await page.select_option("#rewind", "0")
    await asyncio.sleep(1)  # subscribed anew
    await page.evaluate(WATCH)
    cpu = renderer_seconds()
    began = time.monotonic()
    publishing = asyncio.create_task(publish(server, rate, seconds))
    keys = []
    for _ in range(KEYS):
        await asyncio.sleep(seconds / KEYS)
        keys.append(await page.evaluate(PRESS))
    sent = await publishing
    lasted = time.monotonic() - began
    watched = await page.evaluate("(cancelAnimationFrame(watch.handle), watch)")
    cpu = renderer_seconds() - cpu
    shown = page.locator("#events .count")
    await expect(shown).to_have_text(f"{sent['events']:,}", timeout=TIMEOUT)
    frames = sorted(watched["frames"])
    return {
        "messages": sum(sent.values()) / lasted,
        "frames": len(frames) / lasted,
        "p50": statistics.median(frames),
        "p99": frames[int(len(frames) * 0.99)],
        "longest": frames[-1],
        "blocked": watched["blocked"] / lasted / 1000,
        "key": statistics.median(keys),
        "key longest": max(keys),
        "cpu": cpu / lasted,
    }


def renderer_seconds() -> float:
    """Return the CPU seconds of the processes that run pages."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        if "--type=renderer" in process.cmdline():
            times = process.cpu_times()
            used += times.user + times.system
    return used


async def measure_all(rates: list[int], seconds: float) -> dict[int, dict[str, float]]:
    """Measure one rate after another on a page of a server of their own."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory), rate_limit_per_minute="100000") as server,
    ):
        for process in (psutil.Process(server.process.pid), *server.valkey()):
            process.cpu_affinity([0])
        psutil.Process().cpu_affinity([1])
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, chromium_sandbox=False
            )
            page = await browser.new_page(viewport={"width": 1280, "height": 1000})
            await page.goto(f"http://127.0.0.1:{server.port}/")
            await page.fill("#token", server.new_token())
            await page.press("#token", "Enter")
            figures = {}
            for rate in rates:
                print(f"{rate} messages/s…", file=sys.stderr)
                figures[rate] = await measure(page, server, rate, seconds)
            await browser.close()
            return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="messages a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each rate")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error("no chromium on PATH")
    figures = asyncio.run(measure_all(list(options.rates), options.seconds))
    if options.json:
        print(json.dumps({"benchmark": "dashboard", "machine": machine.describe()} | figures))
        return
    columns = ["wanted/s", "messages/s", "frames/s", "frame p50, ms", "p99", "longest"]
    columns += ["blocked", "key, ms", "longest", "page CPU"]
    rows = [
        [
            report.count(rate),
            report.count(row["messages"]),
            f"{row['frames']:.1f}",
            *(f"{row[name]:.1f}" for name in ("p50", "p99", "longest")),
            report.percent(row["blocked"]),
            *(f"{row[name]:.1f}" for name in ("key", "key longest")),
            report.percent(row["cpu"]),
        ]
        for rate, row in figures.items()
    ]
    print(report.table("The dashboard in Chromium", columns, rows))


if __name__ == "__main__":
    main()
