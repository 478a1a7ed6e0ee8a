"""Rewind: the newest few messages that match, then what is live."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from tests.support import Position, Server, client, following, newest, running


async def expect_rewound(
    server: Server, token: str | None, expected: list[Position], **data: Any
) -> None:
    """Subscribe with a rewind on a connection of its own; check answer, replay and live."""
    async with client(server, token) as page:
        answer = await page.subscribed("events", **data)
        assert (answer["recovered"], answer["replayed"]) == (False, len(expected)), data
        await page.assert_positions(expected)
        await page.assert_silent()


async def test_the_newest_few_in_order(server: Server, token: str) -> None:
    sent = await asyncio.to_thread(server.publish, "events", *({"n": n} for n in range(1200)))
    for count in (1, 2, 255, 256, 257, 999, 1000):
        await expect_rewound(server, token, sent[-count:], rewind=count)
    await expect_rewound(server, token, [], rewind=0)


async def test_live_messages_follow(server: Server, token: str) -> None:
    sent = server.publish("events", {"n": 0}, {"n": 1})
    async with client(server, token) as page:
        answer = await page.subscribed("events", rewind=2)
        assert {"epoch": answer["epoch"], "offset": answer["offset"]} == sent[-1]
        sent += server.publish("events", {"n": 2})
        await page.assert_positions(sent)
        await page.assert_silent()


async def test_only_what_matches_counts(server: Server, token: str) -> None:
    mark = uuid.uuid4().hex
    sent = await asyncio.to_thread(
        server.publish,
        "events",
        *({"mark": mark if n % 100 == 0 else "", "n": n} for n in range(3000)),
    )
    matching = sent[::100]
    filters = {"mark": mark}
    for count in (1, 7, 29, 30):
        await expect_rewound(server, token, matching[-count:], filters=filters, rewind=count)
    await expect_rewound(server, token, matching, filters=filters, rewind=1000)
    await expect_rewound(server, token, [], filters={"mark": "no such"}, rewind=1000)
    few = {"mark": mark, "n": [0, 2900]}
    await expect_rewound(server, token, [matching[0], matching[29]], filters=few, rewind=2)
    await expect_rewound(server, token, [matching[29]], filters=few, rewind=1)


async def test_more_than_there_is(data_dir: Any) -> None:
    with running(data_dir, require_auth="false") as server:
        await expect_rewound(server, None, [], rewind=1000)
        sent = server.publish("events", *({"n": n} for n in range(3)))
        await expect_rewound(server, None, sent, rewind=1000)
        await expect_rewound(server, None, sent[1:2], filters={"n": 1}, rewind=1000)


async def test_more_than_is_retained(data_dir: Any) -> None:
    with running(data_dir, require_auth="false", history_size="100") as server:
        sent = server.publish("events", *({"n": n % 10} for n in range(1000)))
        await expect_rewound(server, None, sent[-100:], rewind=1000)
        await expect_rewound(server, None, sent[-99:], rewind=99)
        await expect_rewound(server, None, sent[-100::10], filters={"n": 0}, rewind=1000)


async def test_rewind_applies_where_resume_does_not(server: Server, token: str) -> None:
    start = await newest(server, token)
    sent = server.publish("events", *({"n": n} for n in range(10)))
    async with client(server, token) as page:
        answer = await page.subscribed("events", resume=start, rewind=2)
        assert (answer["recovered"], answer["replayed"]) == (True, 10)
        await page.assert_positions(sent)
        await page.assert_silent()
    for stale in (
        {"epoch": "another", "offset": start["offset"]},
        {"epoch": start["epoch"], "offset": sent[-1]["offset"] + 1},
    ):
        await expect_rewound(server, token, sent[-2:], resume=stale, rewind=2)


async def test_rewind_applies_where_what_was_missed_is_trimmed(data_dir: Any) -> None:
    with running(data_dir, require_auth="false", history_size="100") as server:
        sent = server.publish("events", *({"n": n} for n in range(150)))
        await expect_rewound(server, None, sent[-7:], resume=sent[0], rewind=7)
        await expect_rewound(server, None, sent[-100:], resume=sent[0], rewind=1000)


async def test_while_another_process_publishes(server: Server, token: str) -> None:
    """Replay and live delivery meet without gap or repeat wherever the head is just then."""
    payloads = [{"n": n} for n in range(500)]
    for count in (1, 100, 1000):
        publishing = asyncio.create_task(
            asyncio.to_thread(server.publish_singly, "events", *payloads)
        )
        async with client(server, token) as page:
            answer = await page.subscribed("events", rewind=count)
            assert answer["replayed"] == count
            await publishing
            (last,) = server.publish("events", {"n": "last"})
            first = {"epoch": answer["epoch"], "offset": answer["offset"] - count}
            await page.assert_positions(following(first, last["offset"] - first["offset"]))
            await page.assert_silent()
