"""The dashboard as people use it: in a browser, with the admin and the commands beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.client.javascript.blocker import Blocker
from tests.support import Server, free_port, running
from tests.system.browser.visitor import Visitor, site

PASSWORD = "a long password"


def publish(server: Server, *values: int) -> None:
    """Publish numbered events."""
    server.publish("events", *({"event_type": "counted", "n": n} for n in values))


async def log_in(page: Page, name: str) -> None:
    """Fill in the admin's form."""
    await page.get_by_label("Username").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()


@pytest.fixture
def site_server(data_dir: Path) -> Iterator[Server]:
    """A server with an empty log of its own."""
    with running(data_dir) as server:
        yield server


async def test_from_the_admin_to_the_page_and_back(data_dir: Path, visitor: Visitor) -> None:
    port = str(free_port())
    # The first keeps the log while the one that the page talks to is killed.
    with running(data_dir) as keeper:
        with running(data_dir, "--port", port) as server:
            keeper.administer(
                "User.objects.create_superuser('boss', password=password)", password=PASSWORD
            )
            admin = await visitor.open(site(server, "/admin/"))
            await log_in(admin, "boss")
            await admin.get_by_role("link", name="Access tokens").first.click()
            await admin.get_by_role("link", name=re.compile("Add access token")).click()
            await admin.get_by_label("Name").fill("wall display")
            await admin.get_by_role("button", name="Save", exact=True).click()
            token = await admin.get_by_label("Secret of wall display").input_value()

            # Elsewhere, where nobody is logged in.
            await visitor.open_dashboard(server, token)
            done = server.manage("publish", "events", '{"event_type": "departure", "n": 1}')
            assert done.returncode == 0, done.stderr
            await visitor.sees_numbers(1)
            await expect(visitor.rows.first).to_contain_text("departure")
            assert await visitor.painted("Metrics") == 0
            for value in (3.5, 4.5):
                done = server.manage("publish", "metrics", f'{{"latency_ms": {value}}}')
                assert done.returncode == 0, done.stderr
            latest = visitor.panel("Metrics").locator(".latest")
            await expect(latest).to_contain_text(re.compile(r"latency_ms: latency_ms \d"))
            await visitor.sees_line("Metrics")
            server.process.kill()
            server.may_fail = True
            await visitor.sees_state("reconnecting")
            publish(keeper, *range(2, 52))
        with running(data_dir, "--port", port) as server:
            await visitor.sees_state("live")
            await visitor.sees_numbers(*range(51, 0, -1))
            publish(server, 52)
            await visitor.sees_numbers(*range(52, 0, -1))
            await admin.goto(site(server, "/admin/realtime/accesstoken/"))
            await admin.get_by_role("row", name="wall display").get_by_role("checkbox").check()
            await admin.get_by_label("Action:").select_option("Revoke selected access tokens")
            await (
                admin.get_by_role("button", name="Run")
                .or_(admin.get_by_role("button", name="Go"))
                .first.click()
            )
            await admin.get_by_role("button", name="Revoke").click()
            await visitor.sees_state(r"closed: token revoked \(1008\)")
            await expect(visitor.page.get_by_role("alert").first).to_contain_text("token revoked")
            # Another token, and it goes on.
            await visitor.paste(server.new_token())
            await visitor.sees_state("live")


async def test_a_user_who_is_logged_in(site_server: Server, visitor: Visitor) -> None:
    site_server.administer(
        "User.objects.create_superuser('boss', password=password)\n"
        "User.objects.create_user('nobody', password=password, is_staff=True)",
        password=PASSWORD,
    )
    page = await visitor.open(site(site_server))
    await page.get_by_role("link", name="Log in").click()
    await log_in(page, "boss")
    await visitor.sees_state("live")
    publish(site_server, 1)
    await visitor.sees_numbers(1)
    await expect(page.get_by_role("link", name="Admin")).to_be_visible()
    await expect(page.get_by_label("Token")).to_be_hidden()

    page = await visitor.open(site(site_server, "/admin/login/?next=/"))
    await log_in(page, "nobody")
    await expect(page.get_by_role("alert").first).to_have_text(
        "Your user may not see any of the streams."
    )
    visitor.complaints = [said for said in visitor.complaints if "403" not in said]


async def test_a_token_that_is_wrong(site_server: Server, visitor: Visitor) -> None:
    page = await visitor.open(site(site_server))
    await page.get_by_role("button", name="Connect").click()  # with nothing in the field
    await visitor.paste("rt_wrong")
    await expect(page.get_by_role("alert").first).to_contain_text("Invalid credentials")
    await visitor.sees_state("closed: Invalid credentials")
    await visitor.paste(site_server.new_token(types=["events"]))
    await visitor.sees_state("live")
    await expect(visitor.panel("Alerts")).to_have_attribute(
        "data-refused", "This token does not allow it."
    )
    await page.reload()  # the tab remembers it
    await visitor.sees_state("live")
    await page.get_by_role("button", name="Forget the token").click()
    await expect(page.get_by_label("Token")).to_be_visible()


async def test_a_token_in_the_address(site_server: Server, visitor: Visitor) -> None:
    page = await visitor.open(site(site_server, f"/#token={site_server.new_token()}"))
    await visitor.sees_state("live")
    assert page.url == site(site_server)


async def test_filters(site_server: Server, visitor: Visitor) -> None:
    publish(site_server, *range(5))
    await visitor.open_dashboard(site_server, site_server.new_token())
    await visitor.sees_numbers(4, 3, 2, 1, 0)
    error = visitor.page.locator("#filter-error")
    field = visitor.page.get_by_label("Filter")
    for wrong, complaint in (("n", "n"), ("a..b=1", "empty step"), ("n=[[1]]", "n")):
        await visitor.filter(wrong)
        await expect(error).to_contain_text(complaint)
        await expect(field).to_have_attribute("aria-invalid", "true")
    await visitor.filter("n=[1,3]")
    await visitor.sees_numbers(3, 1)
    await expect(error).to_be_hidden()
    await expect(field).not_to_have_attribute("aria-invalid", "true")
    publish(site_server, 2, 3)
    await visitor.sees_numbers(3, 3, 1)
    said = visitor.page.get_by_role("list", name="What matches").get_by_role("listitem")
    await visitor.filter('n={"gte": 2, "lt": 4} text={"contains": "x"}')
    await visitor.sees_numbers()
    await expect(said).to_have_text(
        [
            "0 of the newest 7 messages match",
            "path n: present in 7, matches in 4",
            "path text: present in 0, matches in 0",
        ]
    )
    await visitor.filter('{"$or": [{"n": {"gte": 2, "lt": 4}}]}')
    await visitor.sees_numbers(3, 2, 3, 2)
    await expect(said.first).to_have_text("4 of the newest 7 messages match")
    await visitor.filter("n=[[1]]")
    await expect(said).to_have_count(0)
    await visitor.filter("")
    await visitor.sees_numbers(3, 2, 4, 3, 2, 1, 0)
    await expect(said).to_have_count(0)
    await visitor.page.get_by_label("Rewind").select_option("from now on")
    await visitor.sees_numbers()


async def test_pause_by_keyboard(site_server: Server, visitor: Visitor) -> None:
    await visitor.open_dashboard(site_server, site_server.new_token())
    keyboard = visitor.page.keyboard
    publish(site_server, 1)
    await visitor.sees_numbers(1)
    await keyboard.press("p")
    await expect(visitor.page.get_by_role("button", name="Resume")).to_be_visible()
    publish(site_server, 2, 3)
    await expect(visitor.page.get_by_role("button", name="Resume (2 new)")).to_be_visible()
    await visitor.sees_numbers(1)
    await keyboard.press("p")
    await visitor.sees_numbers(3, 2, 1)
    await keyboard.press("/")
    await expect(visitor.page.get_by_label("Filter")).to_be_focused()
    await keyboard.type("event_type=p/")  # these are letters here
    await expect(visitor.page.get_by_label("Filter")).to_have_value("event_type=p/")
    await expect(visitor.page.get_by_role("button", name="Pause")).to_be_visible()
    # Everything that can be used can be reached.
    reached = set()
    for _ in range(40):
        await keyboard.press("Tab")
        reached.add(
            await visitor.page.evaluate(
                "document.activeElement.id || document.activeElement.name"
                " || document.activeElement.tagName"
            )
        )
    assert {"rewind", "pause", "number", "group", "window", "filter", "SUMMARY"} <= reached


async def test_what_comes_fast_is_counted_and_the_newest_shown(
    site_server: Server, visitor: Visitor
) -> None:
    await visitor.open_dashboard(site_server, site_server.new_token())
    for start in range(0, 5000, 500):
        publish(site_server, *range(start, start + 500))
    await expect(visitor.page.locator("#events .count")).to_have_text("5,000")
    await visitor.sees_numbers(*range(4999, 4799, -1))


async def test_hostile_payloads_are_text(site_server: Server, visitor: Visitor) -> None:
    await visitor.open_dashboard(site_server, site_server.new_token())
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    for kind in ("alerts", "predictions", "system_status", "metrics", "aggregations", "events"):
        site_server.publish(
            kind,
            {hostile: hostile, "message": hostile, "component": hostile, "value": 1, "n": 1},
            {"__proto__": {"polluted": 1}, "message": None, "value": "1e999", "n": [[[[1]]]]},
            {"message": "ü" * 5000, "value": -0.0, "deep": {"a": {"b": {"c": {"d": {"e": 1}}}}}},
        )
    await expect(visitor.rows).to_have_count(3)
    await expect(visitor.panel("Alerts").locator("li")).to_have_count(3)
    await visitor.rows.last.locator("summary").click()
    await expect(visitor.rows.last.locator("pre")).to_contain_text(hostile)
    assert await visitor.page.locator("main img, main script").count() == 0
    assert await visitor.page.evaluate("({}).polluted") is None


async def test_the_security_policy(site_server: Server, visitor: Visitor) -> None:
    await visitor.open_dashboard(site_server, site_server.new_token())
    attempts = """() => new Promise(resolve => {
        const seen = [];
        document.addEventListener("securitypolicyviolation",
            ({ violatedDirective }) => seen.push(violatedDirective));
        const script = document.createElement("script");
        try { script.textContent = "window.ran = true"; document.body.append(script); }
        catch (error) { seen.push(error.name); }
        const image = new Image();
        image.src = "https://example.com/x.png";
        fetch("https://example.com/").catch(() => {});
        setTimeout(() => resolve([window.ran === true, seen]), 300);
    })"""
    ran, seen = await visitor.page.evaluate(attempts)
    assert not ran
    assert {"img-src", "connect-src"} <= set(seen)
    visitor.complaints.clear()


async def test_where_websockets_are_blocked(site_server: Server, visitor: Visitor) -> None:
    async with Blocker(site_server.port) as blocker:
        await visitor.open(f"http://127.0.0.1:{blocker.port}/")
        await visitor.paste(site_server.new_token())
        await visitor.sees_state("live over HTTP")
        publish(site_server, 1, 2)
        await visitor.sees_numbers(2, 1)
        blocker.reset()
        await visitor.sees_state("reconnecting")
        publish(site_server, 3)
        await visitor.sees_numbers(3, 2, 1)
    visitor.complaints = [said for said in visitor.complaints if "403" not in said]


async def test_a_page_that_goes_to_sleep_and_wakes(site_server: Server, visitor: Visitor) -> None:
    await visitor.open_dashboard(site_server, site_server.new_token())
    context = visitor.page.context
    await context.set_offline(True)
    await visitor.page.evaluate("dispatchEvent(new Event('offline'))")
    publish(site_server, 1)
    await context.set_offline(False)
    await visitor.page.evaluate("dispatchEvent(new Event('online'))")
    await visitor.sees_numbers(1)


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that replays its demo data, an hour in a second."""
    options = ["--demo", "--demo-speed", "3600"]
    with running(tmp_path_factory.mktemp("demo"), *options) as server:
        yield server


@pytest.mark.parametrize("look", LOOKS)
async def test_how_it_looks(demo: Server, visitor: Visitor, look: str) -> None:
    """It fits its window, and what is drawn is there; pictures are for the README."""
    await visitor.open_dashboard(demo, demo.new_token(), **LOOKS[look])
    for title in ("Metrics", "Aggregations"):
        await expect(visitor.panel(title).locator(".latest")).not_to_have_text("nothing yet")
        await visitor.sees_line(title)
    await expect(visitor.rows.nth(20)).to_be_attached()
    await expect(visitor.panel("System status").locator("article").first).to_be_visible()
    await expect(visitor.panel("Predictions").locator("li").first).to_be_visible()
    width = await visitor.page.evaluate("document.documentElement.scrollWidth")
    assert width <= LOOKS[look]["viewport"]["width"]
    background = await visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", background)[0])
    assert (red < 80) == (look == "dark")
    await visitor.photograph(look)
