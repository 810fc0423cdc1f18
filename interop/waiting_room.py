"""Visitors with a real browser in a waiting room: waiting_room.py ADDRESS FOLDER

ADDRESS has /sale/ (two a second are let in), /closed/ (nobody is) and /hard/ (behind a challenge); screenshots
go into FOLDER.
"""

import json
import re
import sys
import urllib.error
import urllib.request

from playwright.sync_api import sync_playwright

address, folder = sys.argv[1:]
base = f"http://{address}"


def queue(path, count):
    """So many visitors in front."""
    for _ in range(count):
        request = urllib.request.Request(base + path, headers={"Accept": "application/json"})
        try:
            urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            assert json.load(error)["reason"] == "waiting_room"


def place(page):
    return int(page.inner_text("[data-room=place]").replace(",", ""))


def await_that(page, what, holds):
    """The page's policy forbids to wait inside it."""
    for _ in range(600):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError(what)


with sync_playwright() as play:
    browser = play.chromium.launch(
        executable_path="/usr/bin/chromium", headless=True, args=["--no-sandbox", "--disable-gpu", "--no-proxy-server"]
    )
    complaints = []

    def visitor(**options):
        page = browser.new_context(**options).new_page()
        # The pages themselves come with 503 or 403, which a browser mentions.
        heard = lambda message: message.type in ("error", "warning") and not re.search("503|403", message.text)
        page.on("console", lambda message: complaints.append(message.text) if heard(message) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    phone = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    queue("/closed/", 1500)
    seen = {
        "desk": visitor(locale="en-US", viewport={"width": 1280, "height": 800}),
        "phone": visitor(locale="ko-KR", viewport={"width": 360, "height": 640}, **phone),
        "small": visitor(locale="en-US", viewport={"width": 320, "height": 568}, **phone),
        "dark": visitor(locale="ko-KR", viewport={"width": 390, "height": 844}, color_scheme="dark", **phone),
        "without-script": visitor(locale="ko-KR", viewport={"width": 360, "height": 640}, java_script_enabled=False),
    }
    for name, page in seen.items():
        page.goto(base + "/closed/")
        page.screenshot(path=f"{folder}/waiting-{name}.png")
        assert place(page) >= 1499, page.inner_text("main")
        is_korean = "번째" in page.inner_text("main")
        assert is_korean == (name in ("phone", "dark", "without-script")), name
        assert page.get_by_role("heading", level=1).count() == 1 and page.get_by_role("status").count() == 1
        if name != "without-script":
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name}: wider than the screen"

    queue("/sale/", 30)
    page = visitor(locale="ko-KR", viewport={"width": 360, "height": 640}, **phone)
    page.goto(base + "/sale/thing?a=1#part")
    first = place(page)
    await_that(page, "the place moves by itself", lambda: place(page) < first - 2)
    before = place(page)
    page.reload()
    after = place(page)
    assert before - 3 <= after <= before, f"a reload changes nothing: {before}, then {after}"
    page.screenshot(path=f"{folder}/waiting-turn.png")
    page.wait_for_selector("text=inside", timeout=60_000)
    assert page.url == base + "/sale/thing?a=1", page.url
    page.reload()
    assert "inside" in page.inner_text("body"), "the session holds"
    cookies = page.context.cookies()
    assert len(cookies) == 1 and cookies[0]["httpOnly"] and cookies[0]["sameSite"] == "Lax", cookies
    # No cookie is for this path, and a link to it does not lead elsewhere.
    page = visitor(locale="en-US")
    page.goto(base + "//closed/?a=1")
    with page.expect_navigation(timeout=60_000):
        pass
    assert page.url == base + "//closed/?a=1" and place(page) > 1500, page.url
    for name, options in {
        "desk": {"locale": "en-US", "viewport": {"width": 1280, "height": 800}},
        "phone": {"locale": "ko-KR", "viewport": {"width": 360, "height": 640}, **phone},
        "without-script": {"locale": "ko-KR", "viewport": {"width": 360, "height": 640}, "java_script_enabled": False},
    }.items():
        page = visitor(**options)
        page.goto(base + "/hard/thing?a=1#part", wait_until="domcontentloaded")
        page.screenshot(path=f"{folder}/challenge-{name}.png")
        if name == "without-script":
            assert not page.is_visible("#hint")
            assert "자바스크립트" in page.inner_text("noscript"), page.inner_text("main")
            continue
        page.wait_for_selector("text=inside", timeout=60_000)
        assert page.url == base + "/hard/thing?a=1#part", page.url
        page.reload()
        assert "inside" in page.inner_text("body"), "the pass holds"
    assert not complaints, complaints
    page = seen["desk"]
    page.context.set_offline(True)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("text=The connection was lost", timeout=60_000)
    page.context.set_offline(False)
    await_that(page, "the connection is back", lambda: page.inner_text("[data-room=state]") == "")
    print(f"Chromium {browser.version}: place {first} to inside, reload, phone, dark, without script, offline; challenge solved")
    browser.close()
