"""The page at /, in a browser, against the real server with the bundled model."""

import json
import os
import re
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

from tests.page.page_case import PROMPT, PageCase
from tests.server import processes
from tests.server.processes import ROOT, RealServer, wait_for

FILES = ("/", "/page.css", "/page.js", "/views.js")
PAGE = os.path.join(ROOT, "server/page")


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


class PageTest(PageCase):

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
                      "document.getElementById('generate').ariaDisabled === 'false'")
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
            page.wait_until_on()
            self.assertIn("stopped", page.text("usage"))
            self.assertTrue(page.text("trouble") == "", page.text("trouble"))
            wait_for(lambda: self.server.metric("packrat_requests_running") == 0)

    def test_sessions(self):
        page = self.ready(prompt=PROMPT, max_tokens=6, temperature=0)

        def chosen():
            return page.run("document.getElementById('session').value")

        def shown(handle):
            text = self.server.client("sessions", "show", handle).stdout
            return text.split("\n\n", 1)[1][:-1]

        def turns(count):
            page.wait_for("document.getElementById('session-state').textContent.startsWith('%d turn')"
                          " && document.getElementById('generate').ariaDisabled === 'false'" % count)

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

    @staticmethod
    def said(server, *messages):
        """What a chat of these, in turns, is answered."""
        roles = ["system"] + ["user", "assistant"] * len(messages)
        body = {"messages": [{"role": role, "content": text} for role, text in zip(roles, messages)],
                "max_tokens": 6, "temperature": 0}
        request = urllib.request.Request("http://127.0.0.1:%d/v1/chat/completions" % server.http_port,
                                         json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["choices"][0]["message"]["content"]

    def test_a_chat(self):
        server, page = self.chat()
        self.assertEqual(page.run("[document.getElementById('text-view').hidden, document.getElementById('chat-view')"
                                  ".hidden, document.getElementById('no-chat').hidden]"), [True, False, True])

        def shown():
            return page.run("[...document.querySelectorAll('.message')].map((e) => e.textContent)")

        def wait_for(messages):
            page.wait_for("document.querySelectorAll('.message').length === %d && "
                          "document.getElementById('send').ariaDisabled === 'false'" % messages)

        def say():
            return page.run("document.getElementById('say').value")

        page.fill("say", " \n")
        page.click("send")
        self.assertEqual(shown(), [])
        page.fill("say", "One")
        page.press("Enter", 13, modifiers=8)  # Begins a line.
        self.assertEqual(shown(), [])
        page.press("Enter", 13)
        wait_for(2)
        one = self.said(server, "Be brief.", "One")
        self.assertEqual((shown(), say()), (["user: One", "assistant: " + one], ""))
        # All that was said goes along.
        page.run("document.getElementById('likely').checked = true")
        page.fill("say", "Two")
        page.click("send")
        wait_for(4)
        two = self.said(server, "Be brief.", "One", one, "Two")
        self.assertEqual(shown()[2:], ["user: Two", "assistant: " + two])
        self.assertGreater(page.run("document.querySelectorAll('.message .token').length"), 0)
        self.assertEqual(page.troubles, [])
        # What is refused is left to be mended.
        page.fill("temperature", 101)
        page.fill("say", "Three")
        page.click("send")
        page.wait_for("document.getElementById('send').ariaDisabled === 'false' && document.getElementById('trouble').textContent")
        self.assertEqual((len(shown()), say()), (4, "Three"))
        page.fill("say", "")
        page.click("take-back")
        self.assertEqual((shown(), say()), (["user: One", "assistant: " + one], "Two"))
        page.click("anew")
        self.assertEqual(shown(), [])
        self.assertEqual(page.run("['take-back', 'anew'].map((id) => document.getElementById(id).ariaDisabled)"),
                         ['true', 'true'])

    def test_events_are_read_however_they_come(self):
        page = self.ready()

        def read(text, piece):
            return page.run("""(async () => {
                const bytes = new TextEncoder().encode(%s);
                window.fetch = async () => new Response(new ReadableStream({start(to) {
                  for (let at = 0; at < bytes.length; at += %d) to.enqueue(bytes.slice(at, at + %d));
                  to.close();
                }}));
                const got = [];
                try {
                  for await (const event of events("x", {})) got.push(event);
                } catch (error) {
                  got.push([error.message, error.param]);
                }
                return got;
              })()""" % (json.dumps(text), piece, piece))

        stream = 'data: {"a": "\u00e9"}\n\n: nothing\n\nevent: x\ndata: {"b":\ndata: 1}\n\n'
        for piece in (1, 7, 1000):
            self.assertEqual(read(stream + "data: [DONE]\n\ndata: {}\n\n", piece), [{"a": "\u00e9"}, {"b": 1}])
            self.assertEqual(read(stream, piece)[2:], [["The answer broke off.", None]])
            self.assertEqual(read('data: {"error": {"message": "No.", "param": "stop[0]"}}\n\n', piece),
                             [["No.", "stop[0]"]])

    def test_a_server_that_has_gone_is_told(self):
        server = RealServer("models/demo")
        self.addCleanup(server.__exit__)
        page = self.open(server)
        page.wait_until_on()
        page.fill("max_tokens", 4000)
        page.run("document.getElementById('ignore_eos').checked = true")
        page.click("generate")
        page.wait_for("document.getElementById('answer').textContent.length > 40")
        server.process.kill()
        server.process.communicate()
        page.wait_until_on()
        self.assertNotEqual(page.text("trouble"), "")
        self.assertEqual(page.run("document.querySelectorAll('.writing, [aria-busy=true]').length"), 0)
        page.wait_for("document.getElementById('health').className === 'bad'")
        self.assertIn("does not answer", page.text("health"))

    def test_a_server_with_another_name_is_met_again(self):
        server = RealServer("models/demo")
        self.addCleanup(server.__exit__)
        page = self.open(server)
        page.wait_until_on()
        page.fill("max_tokens", "2")
        for name, pause in (("other", False), ("third", True)):
            server.process.kill()
            server.process.communicate()
            if pause:
                page.wait_for("document.getElementById('health').className === 'bad'")
            server = RealServer("models/demo", "--http_listen=127.0.0.1:%d" % server.http_port,
                                "--model_name=" + name)
            self.addCleanup(server.__exit__)
            page.wait_for("document.getElementById('model').textContent.startsWith('%s,')" % name)
            page.fill("prompt", PROMPT)
            self.generate(page)
            self.assertEqual(page.text("trouble"), "")
            # What was typed stays.
            self.assertIn("2 generated", page.text("usage"))
            self.assertEqual(page.text("health"), "ready")

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

    def test_gauges_move(self):
        page = self.ready(prompt=PROMPT, max_tokens=4000)
        page.run("document.getElementById('ignore_eos').checked = true")
        shown = ("((running, busy) => document.getElementById('running').textContent === running"
                 " && Number(document.getElementById('speed').textContent) > 0 === busy"
                 " && [...document.querySelectorAll('meter')].some((e) => e.value > 0) === busy)")
        page.wait_for(shown + "('0 of 64', false)")
        # Again and again: the page looks every two seconds, and an answer may be faster.
        page.run("window.again = setInterval(() => document.getElementById('generate').click(), 20)")
        page.wait_for(shown + "('1 of 64', true)")
        page.run("clearInterval(again)")
        page.press("Escape", 27)
        page.wait_for(shown + "('0 of 64', false)")

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
                page.wait_until_on()
                page.fill("max_tokens", "1")
                self.generate(page)
                self.assertIn("1 generated", page.text("usage"))
                self.assertEqual(page.run("[Object.keys(sessionStorage), localStorage.length, document.cookie]"),
                                 [["packrat-key"], 0, ""])
                page.call("Page.navigate", url="http://127.0.0.1:%d/" % server.http_port)
                page.wait_for("document.readyState === 'complete' && "
                              "document.getElementById('generate')?.ariaDisabled === 'false'")
                self.assertEqual(page.text("trouble"), "")


if __name__ == "__main__":
    unittest.main()
