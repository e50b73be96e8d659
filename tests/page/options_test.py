"""The options of the page: that they are sent, their ranges, and where a refusal is told."""

import json
import re
import unittest

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

    def test_a_refusal_opens_the_options(self):
        page = self.ready(prompt=PROMPT, stop="a" * 2000)
        page.run("document.getElementById('options').open = false")
        self.generate(page)
        self.assertEqual(page.run("document.querySelector('[aria-invalid]').id"), "stop")
        self.assertTrue(page.run("document.getElementById('options').open"))


if __name__ == "__main__":
    unittest.main()
