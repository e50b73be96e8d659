"""What the tests of the page share: a server, browsers and what they do most often."""

import os
import tempfile
import unittest

from tests.page import browser
from tests.page.browser import Browser
from tests.server.processes import RealServer, with_template

PROMPT = "Once upon a time"
ROLES = ("{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
         "{% if add_generation_prompt %}[assistant]{% endif %}")


@unittest.skipUnless(browser.PROGRAM, "needs Chromium: ./dev deps test installs it")
class PageCase(unittest.TestCase):
    """With a server that all tests of a class share."""

    @classmethod
    def setUpClass(cls):
        cls.server = RealServer("models/demo")

    @classmethod
    def tearDownClass(cls):
        cls.server.process.kill()
        cls.server.process.communicate()

    def open(self, server=None, **more):
        page = Browser("http://127.0.0.1:%d/" % (server or self.server).http_port, **more)
        self.addCleanup(page.__exit__)
        return page

    def ready(self, **options):
        page = self.open()
        page.wait_until_on()
        for name, value in options.items():
            page.fill(name, str(value))
        return page

    def generate(self, page):
        """Until the page takes another one."""
        page.click("generate")
        page.wait_until_on()

    def answer(self, *arguments):
        return self.server.json("complete", "--temperature=0", *arguments)["text"]

    def chat(self, **more):
        folder = tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"])
        self.addCleanup(folder.cleanup)
        server = RealServer(with_template(folder.name, ROLES))
        self.addCleanup(server.stop)
        page = self.open(server, **more)
        page.wait_for("document.getElementById('health').className === 'good'")
        page.run("document.querySelector('input[value=chat]').click()")
        for name, value in (("max_tokens", 6), ("temperature", 0), ("system", "Be brief.")):
            page.fill(name, value)
        return server, page
