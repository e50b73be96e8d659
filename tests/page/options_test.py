"""The options of the page: that they are sent, their ranges, and where a refusal is told."""

import json
import unittest
import urllib.error
import urllib.request

from tests.page.page_case import PROMPT, PageCase


class OptionsTest(PageCase):

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

    def takes(self, **fields):
        """Whether the server begins an answer by these."""
        body = {"prompt": [5], "stream": True, **fields}
        request = urllib.request.Request("http://127.0.0.1:%d/v1/completions" % self.server.http_port,
                                         json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60):
                return True
        except urllib.error.HTTPError as error:
            with error:
                self.assertEqual(error.code, 400)
                self.assertEqual(json.load(error)["error"]["param"], list(fields)[0])
            return False

    def test_ranges_are_the_server_s(self):
        page = self.ready()
        inputs = page.run("[...document.querySelectorAll('#numbers input')]"
                          ".map((e) => [e.id, Number(e.min), Number(e.max), e.step === '1', e.title])")
        self.assertEqual(len(inputs), 11)
        for name, least, most, whole, told in inputs:
            if name == "seed":  # Any 64 bits, and what JavaScript can say of them.
                continue
            step = 1 if whole else 0.01
            beside = {"max_tokens": most} if name == "min_tokens" else {}
            for end, out, bounded in ((least, -step, "above"), (most, step, "below")):
                # -1 is another way to say that there is no top k.
                beyond = end + (2 * out if name == "top_k" else out)
                self.assertFalse(self.takes(**{name: beyond}, **beside), (name, beyond))
                self.assertTrue(self.takes(**{name: end - out}, **beside), (name, end - out))
                self.assertEqual(self.takes(**{name: end}, **beside), bounded not in told, (name, end))

    def test_options_arrive(self):
        page = self.ready(prompt=PROMPT, max_tokens=60, temperature=0, stop=" the\n\n was")
        self.generate(page)
        self.assertEqual(page.text("answer"), PROMPT + self.answer("--max_tokens=60", "--stop= the, was",
                                                                   PROMPT))
        self.assertIn("came to its end", page.text("usage"))
        # What is no number stays here.
        page.fill("min_p", "")
        page.run("document.getElementById('min_p').focus()")
        page.call("Input.insertText", text="-")
        page.click("generate")
        page.wait_until_on()
        self.assertIn("Min p is not a number", page.text("trouble"))
        self.assertEqual(page.run("document.querySelector('[aria-invalid]').id"), "min_p")
        self.assertEqual(page.troubles, [])

    def test_all_fields_can_be_sent(self):
        page = self.ready(prompt=PROMPT, max_tokens=20, temperature=0)
        page.run("(() => { const fetch = window.fetch; window.fetch = (path, options) => {"
                 " if (path.startsWith('v1/')) window.sent = JSON.parse(options.body);"
                 " return fetch(path, options); }; })()")
        forms = {"regex": ("( big){3}", " big big big"), "grammar": ('root ::= " dog"', " dog"),
                 "json_schema": ('{"enum": ["cat"]}', '"cat"')}
        for name, (form, text) in forms.items():
            page.fill(name, form)
            self.generate(page)
            self.assertEqual((page.text("trouble"), page.text("answer")), ("", PROMPT + text))
            page.fill(name, "")
        values = {"stop_token_ids": ("5", [5]), "allowed_token_ids": (" 5, 6 7,", [5, 6, 7]),
                  "banned_token_ids": ("6", [6]), "priority": ("-3", -3)}
        for name, (typed, _) in values.items():
            page.fill(name, typed)
        page.fill("others", '{"logit_bias": {"5": 1.5}, "use_cache": false, "top_p": 0.5}')
        self.generate(page)
        self.assertEqual(page.text("trouble"), "")
        self.assertEqual(page.run("sent"), {
            "model": page.run("model.name"), "stream": True, "stream_options": {"include_usage": True},
            "prompt": PROMPT, "max_tokens": 20, "temperature": 0, "top_p": 0.5, "use_cache": False,
            "logit_bias": {"5": 1.5}, **{name: sent for name, (_, sent) in values.items()}})

    def test_what_is_wrong_is_told_at_its_box(self):
        page = self.ready(prompt=PROMPT, max_tokens=1)
        for box, typed, told in (
                ("others", "{", "JSON"), ("others", "[1]", "are an object"), ("others", "null", "are an object"),
                ("others", '{"n": 2}', "n is for the page"), ("others", '{"temprature": 1}', "temprature"),
                ("others", '{"temperature": 101}', "range [0, 100]"), ("stop_token_ids", "5 x", "x is not a token id"),
                ("banned_token_ids", "99999999", "99999999"), ("grammar", "root ::=", "grammar"),
                ("json_schema", "{", "json_schema"), ("regex", "(", "regex")):
            page.run("for (const e of document.querySelectorAll('details')) e.open = false")
            page.fill(box, typed)
            self.generate(page)
            self.assertEqual(page.run("[...document.querySelectorAll('[aria-invalid]')].map((e) => e.id)"), [box],
                             typed)
            self.assertIn(told, page.text("told"))
            self.assertEqual(page.run("document.getElementById('told').previousSibling.id"), box)
            self.assertEqual(page.run("document.getElementById('%s').getAttribute('aria-errormessage')" % box), "told")
            self.assertGreater(page.run("document.getElementById('told').getClientRects().length"), 0)
            page.fill(box, "")
        self.generate(page)
        self.assertIsNone(page.run("document.querySelector('#told, [aria-invalid]')"))

    def test_a_refusal_opens_the_options(self):
        page = self.ready(prompt=PROMPT, stop="a" * 2000)
        page.run("document.getElementById('options').open = false")
        self.generate(page)
        self.assertEqual(page.run("document.querySelector('[aria-invalid]').id"), "stop")
        self.assertTrue(page.run("document.getElementById('options').open"))


if __name__ == "__main__":
    unittest.main()
