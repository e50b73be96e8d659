"""Draws the page for docs/: on a wide screen with a session while others write, and on a phone in the dark.

  picture.py FOLDER
"""

import os
import sys

# The servers' programs are found as in tests.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TEST_SRCDIR", os.path.dirname(ROOT))
os.environ.setdefault("TEST_WORKSPACE", os.path.basename(ROOT))

from tests.page.browser import Browser  # noqa: E402
from tests.server.processes import RealServer  # noqa: E402

OTHERS = 5
BEGINNINGS = ("Once upon a time, there was a brave little fox", " One day, the fox met a bear.")


def generate(page, beginning):
    page.fill("prompt", beginning)
    page.click("generate")
    page.wait_until_on()


def wide(page):
    """A session, of which a fork goes on."""
    page.click("create")
    page.wait_for("document.getElementById('session-state').textContent.startsWith('0 turns')")
    generate(page, BEGINNINGS[0])
    page.click("fork")
    generate(page, BEGINNINGS[1])
    page.fill("prompt", " The bear said")


def phone(page):
    page.run("document.getElementById('likely').checked = true")
    generate(page, BEGINNINGS[0])


def draw(server, path, prepare, **more):
    """When the gauges show that others write."""
    with Browser("http://127.0.0.1:%d/" % server.http_port, **more) as page:
        page.wait_until_on()
        for name, value in (("max_tokens", 60), ("temperature", 0.7), ("seed", 1)):
            page.fill(name, value)
        prepare(page)
        page.run("document.activeElement.blur(); scrollTo(0, 0)")
        writing = [server.start_client("complete", BEGINNINGS[0], "--ignore_eos", "--max_tokens=4000")
                   for _ in range(OTHERS)]
        page.wait_for("document.getElementById('running').textContent.startsWith('%d ') && "
                      "Number(document.getElementById('speed').textContent) > 100" % OTHERS)
        page.picture(path)
        for client in writing:
            client.kill()
            client.communicate()
    print("%s: %d KB" % (path, os.path.getsize(path) // 1000))


def main():
    folder = sys.argv[1]
    with RealServer("models/demo", "--model_name=demo", "--max_running=8") as server:
        draw(server, os.path.join(folder, "page.png"), wide, width=1100, height=900)
        draw(server, os.path.join(folder, "page-phone.png"), phone, width=390, height=844, dark=True)


if __name__ == "__main__":
    main()
