"""A real browser in front of a cache: cache_browser.py URL

URL is a page with an image. Prints what Cache-Status says of both, fetched twice in browsers that have nothing.
"""

import sys

from playwright.sync_api import sync_playwright

url = sys.argv[1]

with sync_playwright() as play:
    browser = play.chromium.launch(
        executable_path="/usr/bin/chromium", headless=True, args=["--no-sandbox", "--disable-gpu", "--no-proxy-server"]
    )
    for visit in ("first", "second"):
        # Another context has nothing in the browser's own cache.
        page = browser.new_context().new_page()
        seen = {}
        page.on("response", lambda response: seen.setdefault(response.url, response))
        page.goto(url, wait_until="networkidle")
        for address, response in seen.items():
            if address.endswith("/favicon.ico"):
                continue
            status = response.headers.get("cache-status", "")
            print(visit, address.rsplit("/", 1)[-1] or "page", response.status, status, sep="\t")
            assert response.status == 200, (address, response.status)
            is_hit = status.startswith("sumun; hit")
            assert is_hit == (visit == "second"), (visit, address, status)
        assert page.evaluate("Array.from(document.images).every(image => image.naturalWidth > 0)")
        assert len([address for address in seen if not address.endswith("/favicon.ico")]) >= 2, list(seen)
    browser.close()
