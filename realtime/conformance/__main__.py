"""The command: makes the checks one after another and prints what differs."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from realtime.conformance import messages, streams  # noqa: F401 - they and options add checks
from realtime.conformance.catalogue import CHECKS, NOT_CHECKED, Check, Differs, Scene, Skip
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.testing.client import connect

# How a run ends.
CONFORMS, DIFFERS, NOT_RUN = 0, 1, 2


class CheckResult(NamedTuple):
    """What came of a check: ``ok``, ``differs`` or ``skipped``, and why."""

    check: str
    about: str
    result: str
    why: str = ""


async def make(check: Check, scene: Scene, timeout: float) -> CheckResult:
    """Make one check."""
    result, why = "differs", ""
    try:
        async with asyncio.timeout(timeout):
            await check.make(scene)
        result = "ok"
    except Skip as skip:
        result, why = "skipped", str(skip)
    except (Differs, AssertionError) as error:
        why = str(error)
    except ConnectionClosed as error:
        why = f"the server closed: {error}"
    except TimeoutError:
        why = "the server did not answer in time"
    except Exception as error:
        # Whatever a server sends that is nothing like the protocol.
        line = traceback.extract_tb(error.__traceback__)[-1].line
        why = f"{type(error).__name__}: {error} at {line}"
    return CheckResult(check.name, check.about, result, why)


async def prepare(scene: Scene) -> None:
    """Learn what the token allows. Raises :class:`Skip` if the server cannot be checked."""
    try:
        async with connect(scene.url) as client:
            if scene.token is None:
                return
            reply = await client.call({"type": "auth", "data": {"token": scene.token}})
    except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
        raise Skip(f"{scene.url}: {error or type(error).__name__}") from None
    except (TimeoutError, ValueError, KeyError):
        raise Skip(f"{scene.url}: no answer of this protocol to auth") from None
    if reply.get("type") != "auth_success":
        raise Skip(f"the token was not accepted: {reply.get('data')}")
    allowed = reply.get("data", {}).get("types") or SUBSCRIPTION_TYPES
    scene.allowed = tuple(kind for kind in SUBSCRIPTION_TYPES if kind in allowed) or scene.allowed


def chosen(only: Sequence[str], slow: bool) -> list[Check]:
    """Return the checks whose names contain any of these parts."""
    return [
        check
        for check in CHECKS
        if (slow or not check.is_slow or only)
        and (not only or any(part in check.name for part in only))
    ]


async def run(
    scene: Scene, checks: Sequence[Check], timeout: float, quiet: bool
) -> list[CheckResult]:
    """Make the checks; print each as it is made."""
    await prepare(scene)
    results = []
    for check in checks:
        result = await make(check, scene, timeout)
        results.append(result)
        if not quiet:
            why = f": {result.why}" if result.why else ""
            print(f"{result.result:8} {result.check}{why}", flush=True)
    return results


def main() -> int:
    """Check a server; return 0 if it conforms, 1 if it differs, 2 if it could not be checked."""
    parser = argparse.ArgumentParser(
        prog="python -m realtime.conformance", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("url", nargs="?", help="the WebSocket endpoint: ws://localhost:8765/ws/")
    parser.add_argument("--token", help="an access token; without it, authentication is left out")
    parser.add_argument(
        "--publish",
        metavar="COMMAND",
        help="called with TYPE and -, publishes the lines of its standard input",
    )
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--slow", action="store_true", help="also what takes many messages or time")
    parser.add_argument("--list", action="store_true", help="print the checks and make none")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each check")
    options = parser.parse_args()
    checks = chosen(options.only, options.slow or options.list)
    if not checks:
        parser.error(f"no check has {' or '.join(options.only)} in its name")
    if options.list:
        for check in checks:
            print(f"{check.name:40} {check.about}{' (slow)' if check.is_slow else ''}")
        for row, why in NOT_CHECKED.items():
            print(f"{row:40} not checked: {why}")
        return CONFORMS
    if not options.url:
        parser.error("the address of the server is missing")
    # A check that waits in vain ends by itself, with the thread it may use.
    scene = Scene(options.url, options.token, options.publish, options.timeout / 2)
    try:
        results = asyncio.run(run(scene, checks, options.timeout, options.json))
    except Skip as reason:
        parser.exit(NOT_RUN, f"error: {reason}\n")
    if options.json:
        print(json.dumps([result._asdict() for result in results], indent=2))
    counts = Counter(result.result for result in results)
    conforming = f"{counts['ok']} as the protocol says"
    print(f"{conforming}, {counts['differs']} differ, {counts['skipped']} skipped", file=sys.stderr)
    return DIFFERS if counts["differs"] else CONFORMS


if __name__ == "__main__":
    sys.exit(main())
