"""The dashboard as a person meets it, in a real Chromium."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from runstore import AsyncPublisher
from runstore.adapters.store import RedisStore
from tests.browser.stage import at_run, opened, signed_in
from tests.sdk.live import Live, live
from tests.waiting import happens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
ROW = ".row[data-run='{}']"


async def publish(publisher: AsyncPublisher, *statuses: str, **event: Any) -> str:
    run_id = str(event.pop("run_id", uuid4()))
    for status in statuses:
        told = await publisher.publish(run_id=run_id, status=status, **event)
    assert told.cursor
    return run_id


async def shows(page: Any, selector: str, text: str) -> None:
    await page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)", arg=[selector, text]
    )


async def test_it_asks_for_a_token_keeps_it_in_the_session_alone_and_forgets_it(running: Live, chromium: Any) -> None:
    async with opened(chromium, running.url) as made:
        page = made.page
        await page.fill("input[name=token]", "wrong")
        await page.press("input[name=token]", "Enter")
        await shows(page, "[role=alert]", "not taken")
        await page.fill("input[name=token]", running.token)
        await page.press("input[name=token]", "Enter")
        await page.wait_for_selector("header.top")

        assert await page.evaluate("sessionStorage.getItem('runstore.token')") == running.token
        kept = await page.evaluate(
            "JSON.stringify([{...localStorage}, document.cookie, location.href, history.length])"
        )
        assert running.token not in kept
        await page.reload()
        await page.wait_for_selector("header.top")
        await page.click("text=Sign out")
        await page.wait_for_selector("form.signin")
        assert await page.evaluate("sessionStorage.length") == 0


async def test_a_token_that_is_revoked_leads_back_to_the_form(running: Live, chromium: Any) -> None:
    async with signed_in(chromium, running) as made:
        async with RedisStore.open(running.redis_url) as store:
            await store.tokens.revoke("test")

        await shows(made.page, "[role=alert]", "expired or was revoked")


async def test_what_runs_and_what_ended_shows_live(running: Live, publisher: AsyncPublisher, chromium: Any) -> None:
    first = await publish(publisher, "running")
    async with signed_in(chromium, running) as made:
        page = made.page
        await shows(page, ROW.format(first), "running")
        await shows(page, ".touch", "live")

        await publish(publisher, "running", run_id=first, progress={"fraction": 0.5, "message": "half of it"})
        await shows(page, ROW.format(first), "half of it")
        await publish(publisher, "failed", run_id=first, error_message="no such file")
        second = await publish(publisher, "running", project_name="reports")

        await shows(page, ROW.format(first), "no such file")
        await shows(page, ROW.format(second), "reports")
        await publish(publisher, "success", run_id=second, project_name="reports")
        await shows(page, ROW.format(second), "success")
        await shows(page, ".section", "Nothing is running now")


async def test_filters_narrow_the_listing_and_are_in_the_address(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    sha = "abc1234def5678901234567890abcdef12345678"
    wanted = await publish(publisher, "running", "failed", tags=["nightly", "eu"], commit_sha=sha)
    others = [
        await publish(publisher, "running", "success", tags=["nightly"]),
        await publish(publisher, "running", "failed", tags=["eu"], project_name="reports"),
    ]
    async with signed_in(chromium, running) as made:
        page = made.page
        for run_id in (wanted, *others):
            await page.wait_for_selector(ROW.format(run_id))

        await page.click(".chip:has-text('failed')")
        await page.wait_for_selector(ROW.format(others[0]), state="detached")
        await page.fill("input[aria-label='Tags, by commas']", "nightly")
        await page.press("input[aria-label='Tags, by commas']", "Enter")
        await page.wait_for_selector(ROW.format(others[1]), state="detached")
        await page.wait_for_selector(ROW.format(wanted))
        assert (await page.evaluate("location.hash")) == "#/?status=failed&tag=nightly"

        await page.goto(f"{running.url}/#/?project=reports&commit=abc")
        await shows(page, ".note", "No run matches")
        await page.goto(f"{running.url}/#/?project=forecasts&commit=abc")
        await page.wait_for_selector(ROW.format(wanted))
        assert await page.locator(".row").count() == 1


async def test_a_run_is_found_by_its_first_digits(running: Live, publisher: AsyncPublisher, chromium: Any) -> None:
    for tail in "12":
        await publish(publisher, "running", run_id=f"abcdabcd-0000-4000-8000-00000000000{tail}")
    async with signed_in(chromium, running) as made:
        page = made.page
        await page.wait_for_selector(".row")
        for typed, told in (("abc", "at least 4"), ("12345678", "No run"), ("abcdabcd", "Several runs begin so")):
            await page.keyboard.press("/")
            await page.fill("input[name=find]", typed)
            await page.keyboard.press("Enter")
            await shows(page, ".candidates", told)
            if typed != "abcdabcd":
                await page.keyboard.press("Escape")
        await page.click(".candidates a >> nth=1")
        await shows(page, ".facts", "abcdabcd-0000-4000-8000-000000000002")


async def test_the_page_of_a_run_tells_its_story_as_it_goes_on(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    run_id = await publish(publisher, "pending", "running", worker="worker-1")
    async with signed_in(chromium, running) as made:
        page = made.page
        await page.goto(f"{running.url}/#/run/{run_id[:8]}")
        await shows(page, ".titles", "running")
        await running.store.logs.append_logs(run_id, [("stdout", b"one line\n"), ("stderr", b"\x1b[31mred\x1b[0m\n")])
        await shows(page, ".logs .stdout", "one line")
        await shows(page, ".logs .stderr", "red\n")
        await publish(publisher, "running", run_id=run_id, progress={"fraction": 0.25, "message": "fitting"})
        await shows(page, "[aria-label=Progress]", "25 % fitting")

        outputs = {"loss": [3, 2, 1.5, 1.2], "rows": [{"n": n} for n in range(100)], "rmse": 0.25, "note": HOSTILE}
        await publish(publisher, "success", run_id=run_id, output={"exit_code": 0, "outputs": outputs})
        await publish(publisher, "failed", run_id=run_id, error_message="worker lost")

        await shows(page, ".titles", "success")
        assert "4 numbers from 1.2 to 3" in await page.get_attribute(".plot svg", "aria-label")
        await shows(page, ".outputs", HOSTILE)
        assert await page.locator(".outputs details pre").count() == 0
        await page.click("summary:has-text('a list of 100')")
        await shows(page, ".outputs details pre", '"n": 99')
        await page.reload()
        await shows(page, ".timeline .ignored", "changed nothing")
        assert await page.locator(".timeline li").count() == 4


async def test_a_run_is_cancelled_after_a_question(running: Live, chromium: Any) -> None:
    async with signed_in(chromium, running) as made:
        page = made.page
        asked = await page.evaluate(
            """async (token) => {
              const { Client } = await import(new URL("static/runstore.js", location.href));
              return (await new Client(location.origin, { token }).run("forecasts")).run_id;
            }""",
            running.token,
        )
        await page.goto(f"{running.url}/#/run/{asked}")
        await page.click("text=Cancel run")
        await page.click("dialog >> text=Let it run")
        await shows(page, ".titles", "pending")
        await page.click("text=Cancel run")
        await page.click("dialog >> text=Cancel run >> nth=-1")
        await shows(page, ".titles", "cancelled")


async def test_what_strangers_wrote_stays_text(running: Live, publisher: AsyncPublisher, chromium: Any) -> None:
    tag = HOSTILE[:64]
    run_id = await publish(publisher, "running", tags=[tag], worker=HOSTILE[:60])
    await publish(
        publisher, "failed", run_id=run_id, error_message=HOSTILE, output={"stdout": HOSTILE, "stderr": HOSTILE}
    )
    left = await publish(publisher, "success", output={"stdout": HOSTILE, "outputs": {HOSTILE: [HOSTILE, "x" * 500]}})
    async with signed_in(chromium, running) as made:
        page = made.page
        await shows(page, ROW.format(run_id), HOSTILE)
        for one in (run_id, left):
            await page.goto(f"{running.url}/#/run/{one}")
            await shows(page, ".logs", HOSTILE)
        await page.click("summary")
        await shows(page, "details pre", "onerror")
        assert await page.locator("main img, main script, main iframe").count() == 0
        for address in (f"#/run/{HOSTILE}", f"#/?project={HOSTILE}", f"#/?tag={HOSTILE}", "#/run/%00", "#/run/../x"):
            await page.goto(f"{running.url}/{address}")
            await page.wait_for_selector("main")
        assert await page.locator("main img, main script, main iframe").count() == 0


async def test_a_lost_link_says_how_old_everything_is_until_it_is_back(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    run_id = await publish(publisher, "running")
    async with signed_in(chromium, running) as made:
        page = made.page
        await shows(page, ROW.format(run_id), "running")
        await shows(page, ".touch", "live")
        await running.stop_gateway()
        await shows(page, ".banner:not([hidden])", "ago")
        await shows(page, ".touch", "link lost")
        before = await page.inner_text(".banner span")
        await page.wait_for_function(
            "(before) => document.querySelector('.banner span').textContent !== before", arg=before
        )
        await shows(page, ROW.format(run_id), "running")

        await publish(publisher, "success", run_id=run_id)
        await running.start_gateway()

        await shows(page, ROW.format(run_id), "success")
        await page.wait_for_selector(".banner", state="hidden")
        await shows(page, ".touch", "live")


async def test_nothing_but_the_keyboard_is_needed(running: Live, publisher: AsyncPublisher, chromium: Any) -> None:
    ids = [await publish(publisher, "running") for _ in range(3)]
    async with signed_in(chromium, running) as made:
        page = made.page
        for run_id in ids:
            await page.wait_for_selector(ROW.format(run_id))
        here = "document.activeElement.closest('[data-run]')?.dataset.run"
        order = await page.evaluate(
            "[...document.querySelectorAll('.row[data-run]')].sort((a, b) => a.offsetTop - b.offsetTop)"
            ".map((row) => row.dataset.run)"
        )
        await page.keyboard.press("j")
        assert await page.evaluate(here) == order[0]
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("j")
        assert await page.evaluate(here) == order[2]
        await page.keyboard.press("k")
        assert await page.evaluate(here) == order[1]
        await page.keyboard.press("Enter")
        await shows(page, ".facts", order[1])
        await page.keyboard.press("u")
        await page.wait_for_selector(".row")
        await page.keyboard.press("?")
        await page.wait_for_selector("dialog[open]")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("dialog[open]", state="detached")


async def test_of_a_long_listing_only_what_is_in_sight_is_in_the_page(running: Live, chromium: Any) -> None:
    many = 3000
    for number in range(many):
        run_id = str(uuid4())
        event = {"run_id": run_id, "status": "success", "project_name": "forecasts", "tags": [f"n{number}"]}
        await running.store.log.append(run_id, json.dumps(event).encode())
    async with signed_in(chromium, running) as made:
        page = made.page
        await page.wait_for_selector(".row")

        async def at_the_end() -> bool:
            await page.evaluate(
                "(() => { const t = document.querySelector('.table'); t.scrollTop = t.scrollHeight; })()"
            )
            await asyncio.sleep(0)
            return bool(await page.locator(".tag:text-is('n0')").count())

        await happens(at_the_end, within_s=60)
        assert await page.locator(".row").count() < 80
        # the last page may say only that there is no other
        await page.wait_for_function(
            "(height) => document.querySelector('.spacer').offsetHeight === height", arg=34 * (many + 2)
        )


SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_no_rule_of_accessibility_is_broken(
    running: Live, publisher: AsyncPublisher, chromium: Any, scheme: str, size: str
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.async_playwright",
        reason="axe-playwright-python is not installed: pip install 'runstore[browser]' to check accessibility",
    )
    for status in ("pending", "running", "success", "failed", "timed_out", "cancelled"):
        await publish(publisher, status, tags=["a"], error_message=None if status in {"pending", "running"} else "why")
    run_id = await publish(
        publisher, "running", "success", output={"stdout": "x\n" * 99, "outputs": {"s": [1, 2], "l": "y" * 500}}
    )

    async def broken(page: Any) -> list[Any]:
        found = await axe.Axe().run(page)
        return [(each["id"], each["nodes"][0]["html"]) for each in found.response["violations"]]

    async with opened(chromium, running.url, viewport=SIZES[size], color_scheme=scheme) as made:
        page = made.page
        assert await broken(page) == []
        await page.fill("input[name=token]", running.token)
        await page.press("input[name=token]", "Enter")
        await page.wait_for_selector(ROW.format(run_id))
        await shows(page, ".health", "lag")
        assert await broken(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.goto(f"{running.url}/#/run/{run_id}")
        await page.wait_for_selector(".logs .stdout")
        await page.wait_for_selector(".timeline li")
        assert await broken(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.goto(f"{running.url}/#/?tag=none")
        await page.wait_for_selector(".note")
        assert await broken(page) == []


async def test_a_number_is_shown_with_every_digit_and_a_log_as_a_terminal_shows_it(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    run_id = await publish(publisher, "running")
    async with at_run(chromium, running, run_id) as page:
        pieces = (b"10%\r5", b"0%\r", b"100%\r\n\x1b]8;;http://x\x07link\x1b", b"[3", b"1m red\x1b[0m\x00\n")
        await running.store.logs.append_logs(run_id, [("stdout", piece) for piece in pieces])
        await page.wait_for_function(
            "() => document.querySelector('.logs')?.textContent === '100%\\nlink red\\u2400\\n'"
        )
        await publish(publisher, "success", run_id=run_id, output={"outputs": {"n": 123456789, "x": 0.1234567}})

        await shows(page, ".outputs", "123,456,789")
        await shows(page, ".outputs", "0.1234567")


async def test_a_run_that_is_told_of_late_shows_where_its_page_waits(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    run_id = str(uuid4())
    async with at_run(chromium, running, run_id) as page:
        await shows(page, ".note h1", "No such run")

        await publish(publisher, "failed", run_id=run_id, output={"outputs": {"left": 7}})
        await shows(page, ".titles", "failed")
        await page.click("text=Read all of it")
        await shows(page, ".outputs", "7")


async def test_a_filter_keeps_the_focus_and_a_run_leads_back_to_where_it_was_opened(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    ids = [await publish(publisher, "failed", tags=["eu"]) for _ in range(3)]
    async with signed_in(chromium, running) as made:
        page = made.page
        await page.wait_for_selector(ROW.format(ids[0]))
        await page.focus("[name=status-failed]")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("[name=status-failed][aria-pressed=true]")
        assert await page.evaluate("document.activeElement.name") == "status-failed"
        await page.wait_for_selector(ROW.format(ids[0]))

        await page.keyboard.press("j")
        await page.keyboard.press("j")
        here = await page.evaluate("document.activeElement.closest('[data-run]').dataset.run")
        await page.keyboard.press("Enter")
        await shows(page, ".facts", here)
        assert await page.evaluate("document.activeElement.tagName") == "H1"
        assert await page.get_attribute(".titles a", "href") == "#/?status=failed"
        await page.keyboard.press("u")
        await page.wait_for_selector(ROW.format(here))
        assert await page.evaluate("document.activeElement.closest('[data-run]').dataset.run") == here


async def test_rows_are_in_the_page_in_the_order_in_which_they_are_seen(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    first = await publish(publisher, "running")
    async with signed_in(chromium, running) as made:
        page = made.page
        await page.wait_for_selector(ROW.format(first))
        last = first
        for status in ("running", "running", "failed"):
            last = await publish(publisher, status)
            await page.wait_for_selector(ROW.format(last))
        await publish(publisher, "success", run_id=first)
        await shows(page, ROW.format(first), "success")

        await shows(page, "main > [role=status]", f"Run {first[:8]} of forecasts: success")
        assert await page.evaluate(
            "(() => { const tops = [...document.querySelector('.spacer').children].map((row) => row.offsetTop);"
            " return tops.every((top, at) => at === 0 || tops[at - 1] < top); })()"
        )


async def test_a_store_that_cannot_be_reached_is_not_shown_as_one_where_nothing_runs(
    redis_url: str, chromium: Any
) -> None:
    async with live(redis_url) as running, signed_in(chromium, running) as made:
        page = made.page
        await shows(page, ".note", "No runs yet")
        refuse = {"status": 503, "content_type": "application/problem+json"}
        body = json.dumps({"code": "store_unavailable", "detail": "Redis does not answer"})
        await page.route("**/v1/runs?*", lambda route: route.fulfill(**refuse, body=body))
        await page.reload()
        await shows(page, ".note", "The store cannot be reached")
        assert "Nothing is running" not in await page.inner_text("main")

        await page.unroute("**/v1/runs?*")
        await shows(page, ".note", "No runs yet")


async def test_however_often_a_run_is_looked_at_one_watch_follows_it(
    running: Live, publisher: AsyncPublisher, chromium: Any
) -> None:
    run_id = await publish(publisher, "running")
    async with at_run(chromium, running, run_id) as page:
        await running.store.logs.append_logs(run_id, [("stdout", b"once\n")])
        await shows(page, ".logs", "once")
        for _ in range(3):
            await page.evaluate("document.querySelector('.banner button').click()")
        await publish(publisher, "running", run_id=run_id, progress={"fraction": 0.5})
        await shows(page, "[aria-label=Progress]", "50 %")
        await publish(publisher, "success", run_id=run_id)
        await shows(page, ".titles", "success")

        assert await page.inner_text(".logs") == "once\n"
