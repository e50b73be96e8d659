"""The page at /, in a browser, against the real server with the bundled model."""

import json
import os
import re
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

from tests.page import browser
from tests.page.browser import Browser
from tests.server import processes
from tests.server.processes import ROOT, RealServer, wait_for

FILES = ("/", "/page.css", "/page.js", "/views.js")
PAGE = os.path.join(ROOT, "server/page")
PROMPT = "Once upon a time"


class FilesTest(unittest.TestCase):

    def test_the_page_is_small_and_alone(self):
        with RealServer("models/demo") as server:
            bodies = {}
            for path in FILES:
                url = "http://127.0.0.1:%d%s" % (server.http_port, path)
                with urllib.request.urlopen(url, timeout=60) as answer:
                    bodies[path] = answer.read().decode()
                    policy = answer.headers["Content-Security-Policy"]
                    self.assertIn("default-src 'none'", policy)
                    self.assertNotIn("unsafe", policy)
                    self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
        self.assertLess(sum(len(body.encode()) for body in bodies.values()), 100 << 10)
        for name, body in zip(("index.html", "page.css", "page.js", "views.js"), bodies.values()):
            with open(os.path.join(PAGE, name), encoding="utf-8") as file:
                self.assertEqual(body, file.read())
            self.assertEqual(re.findall(r"//(?!www\.w3\.org/2000/svg)\w+\.\w+", body), [])
            self.assertNotIn("innerHTML", body)

    def test_it_can_be_left_out(self):
        with RealServer("models/demo", "--http_page=false") as server:
            for path in FILES:
                with self.assertRaises(urllib.error.HTTPError) as raised:
                    server.get(path)
                self.assertEqual(raised.exception.code, 404)
                raised.exception.close()


@unittest.skipUnless(browser.PROGRAM, "needs Chromium: ./dev page-test installs it")
class PageTest(unittest.TestCase):

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
        page.wait_for("!document.getElementById('generate').disabled")
        for name, value in options.items():
            page.fill(name, str(value))
        return page

    def generate(self, page):
        """Until the page takes another one."""
        page.click("generate")
        page.wait_for("!document.getElementById('generate').disabled")

    def answer(self, *arguments):
        return self.server.json("complete", "--temperature=0", *arguments)["text"]

    def test_a_text_goes_on(self):
        page = self.ready(prompt=PROMPT, max_tokens=8, temperature=0)
        self.generate(page)
        self.assertEqual(page.text("answer"), PROMPT + self.answer("--max_tokens=8", PROMPT))
        self.assertIn("8 generated", page.text("usage"))
        self.assertIn("its limit of tokens", page.text("usage"))
        page.click("take")
        self.assertEqual(page.run("document.getElementById('prompt').value"),
                         PROMPT + self.answer("--max_tokens=8", PROMPT))
        # By keys, with each token's probability, and what looks like HTML.
        page.fill("prompt", "<b id=made>Once</b>")
        page.run("document.getElementById('likely').checked = true")
        page.run("document.getElementById('prompt').focus()")
        page.press("Enter", 13, modifiers=2)
        page.wait_for("document.querySelectorAll('.token').length >= 8 && "
                      "!document.getElementById('generate').disabled")
        self.assertEqual(page.text("answer"), "<b id=made>Once</b>"
                         + self.answer("--max_tokens=8", "<b id=made>Once</b>"))
        self.assertIsNone(page.run("document.getElementById('made')"))
        page.run("document.querySelector('.token').dispatchEvent("
                 "new PointerEvent('pointerover', {bubbles: true}))")
        self.assertRegex(page.text("token"), r'^".*" [\d.e-]+ %; of all: (".*" [\d.e-]+ %(, )?){5}$')
        self.assertEqual(page.troubles, [])

    def test_an_answer_is_stopped(self):
        page = self.ready(prompt=PROMPT, max_tokens=4000)
        page.run("document.getElementById('ignore_eos').checked = true")
        for stop in (lambda: page.click("stop-text"), lambda: page.press("Escape", 27)):
            page.click("generate")
            page.wait_for("document.getElementById('answer').textContent.length > 40")
            stop()
            page.wait_for("!document.getElementById('generate').disabled")
            self.assertIn("stopped", page.text("usage"))
            self.assertTrue(page.text("trouble") == "", page.text("trouble"))
            wait_for(lambda: self.server.metric("packrat_requests_running") == 0)

    def test_a_refusal_names_its_field(self):
        page = self.ready(prompt=PROMPT, temperature=101)
        self.generate(page)
        self.assertIn("temperature is 101; range [0, 100]", page.text("trouble"))
        self.assertEqual(page.run("document.querySelector('[aria-invalid]').id"), "temperature")
        page.fill("temperature", "")
        page.fill("max_tokens", "1")
        self.generate(page)
        self.assertEqual(page.text("trouble"), "")
        self.assertIsNone(page.run("document.querySelector('[aria-invalid]')"))

    def test_ranges_are_the_server_s(self):
        page = self.ready()
        schema = json.dumps(json.loads(self.server.get("/openapi.json")))
        inputs = page.run("[...document.querySelectorAll('#numbers input')]"
                          ".map((e) => [e.id, Number(e.min), Number(e.max)])")
        self.assertEqual(len(inputs), 10)
        for name, least, most in inputs:
            found = re.search(r'"%s": (\{[^{}]*\})' % name, schema)
            self.assertTrue(found, name)
            told = json.loads(found.group(1))
            for ends, value in ((("minimum", "exclusiveMinimum"), least),
                                (("maximum", "exclusiveMaximum"), most)):
                for end in ends:
                    # What depends on the model is not in the description, and no tokens at all are for
                    # scores, which the page has none of.
                    if end in told and name != "seed" and (name, end) != ("max_tokens", "minimum"):
                        self.assertEqual(value, told[end], (name, end))

    def test_sessions(self):
        page = self.ready(prompt=PROMPT, max_tokens=6, temperature=0)

        def chosen():
            return page.run("document.getElementById('session').value")

        def shown(handle):
            text = self.server.client("sessions", "show", handle).stdout
            return text.split("\n\n", 1)[1][:-1]

        def turns(count):
            page.wait_for("document.getElementById('session-state').textContent.startsWith('%d turn')"
                          " && !document.getElementById('generate').disabled" % count)

        page.click("create")
        turns(0)
        first = chosen()
        self.generate(page)
        turns(1)
        one = shown(first)
        self.assertTrue(one.startswith(PROMPT) and len(one) > len(PROMPT), one)
        self.assertEqual(page.text("answer"), one)
        page.click("fork")
        page.wait_for("document.getElementById('session').value !== '%s'" % first)
        turns(1)
        fork = chosen()
        page.fill("prompt", " The dog")
        self.generate(page)
        turns(2)
        self.assertTrue(shown(fork).startswith(one + " The dog"))
        self.assertEqual(page.text("answer"), shown(fork))
        self.assertEqual(shown(first), one)
        page.click("rewind")
        turns(1)
        self.assertEqual(shown(fork), one)
        self.assertEqual(page.text("answer"), one)
        page.click("delete")
        page.wait_for("document.getElementById('session').value === ''")
        self.assertIn("NOT_FOUND", self.server.client("sessions", "show", fork).stderr)
        self.assertEqual(page.troubles, [])

    def test_gauges(self):
        page = self.ready()
        page.wait_for("document.getElementById('running').textContent === '0 of 64'")
        self.assertEqual(page.text("waiting"), "0 of 1024")
        self.assertRegex(page.text("speed"), r"^\d+$")
        kinds = set(re.findall(r'packrat_state_capacity_bytes{[^}]*kind="(\w+)".*} [1-9]',
                               self.server.get("/metrics")))
        self.assertGreater(len(kinds), 1)
        for kind in kinds:
            self.assertRegex(page.text("memory"), kind + r"\d[\d.]* [KMG]?B of \d[\d.]* [KMG]?B")
        self.assertEqual(page.run("document.querySelectorAll('meter').length"), len(kinds))

    def test_a_model_without_a_chat_template_does_not_chat(self):
        page = self.ready()
        self.assertTrue(page.run("document.querySelector('input[value=chat]').disabled"))
        self.assertIn("no chat template", page.text("no-chat"))
        self.assertFalse(page.run("document.getElementById('no-chat').hidden"))

    def test_a_key_is_asked_for_and_kept_in_this_tab_alone(self):
        key, line = subprocess.run([processes.CLIENT, "key", "tester"], stdout=subprocess.PIPE,
                                   check=True, encoding="utf-8").stdout.splitlines()
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
            file.write(line + "\n")
            file.flush()
            with RealServer("models/demo", "--api_keys=" + file.name) as server:
                page = self.open(server)
                page.wait_for("document.activeElement.id === 'key'")
                self.assertIn("key", page.text("trouble"))
                page.fill("key", key)
                page.wait_for("!document.getElementById('generate').disabled")
                page.fill("max_tokens", "1")
                self.generate(page)
                self.assertIn("1 generated", page.text("usage"))
                self.assertEqual(page.run("[sessionStorage.length, localStorage.length, document.cookie]"),
                                 [1, 0, ""])

    def test_on_a_phone_and_in_the_dark(self):
        light = self.ready().run("getComputedStyle(document.body).backgroundColor")
        page = self.open(width=390, height=844, dark=True)
        page.wait_for("!document.getElementById('generate').disabled")
        self.assertNotEqual(page.run("getComputedStyle(document.body).backgroundColor"), light)
        page.run("for (const e of document.querySelectorAll('details')) e.open = true")
        self.assertLessEqual(page.run("document.documentElement.scrollWidth"), 390)
        # Every control has a name, and is large enough to be hit.
        self.assertEqual(page.run(
            "[...document.querySelectorAll('button, select, textarea, input')].filter((e) =>"
            " !(e.labels?.length || e.textContent.trim())).map((e) => e.id)"), [])
        self.assertEqual(page.run(
            "[...document.querySelectorAll('button')].filter((e) => e.offsetParent && e.offsetHeight < 40)"
            ".map((e) => e.id)"), [])


if __name__ == "__main__":
    unittest.main()
