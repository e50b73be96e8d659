"""Answers that match a schema, a pattern, a grammar: the server, the client and the bundled model,
at temperatures at which it writes nonsense."""

import json
import os
import re
import tempfile
import unittest

from tests.server.processes import RealServer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", "\u00e9t\u00e9"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "next": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-f0-9]{2,4}$"}]},
    },
    "required": ["name", "age", "tags"],
}


def is_valid(value):
    """By the schema above."""
    return (isinstance(value, dict) and
            set(value) <= set(SCHEMA["properties"]) and
            set(SCHEMA["required"]) <= set(value) and
            isinstance(value["name"], str) and 1 <= len(value["name"]) <= 6 and
            type(value["age"]) is int and 0 <= value["age"] <= 150 and
            value.get("kind", "cat") in ("cat", "dog", "\u00e9t\u00e9") and
            len(value["tags"]) <= 3 and all(type(tag) is bool for tag in value["tags"]) and
            (value.get("next") is None or
             re.fullmatch("[a-f0-9]{2,4}", value["next"]) is not None))


class StructuredOutputTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = RealServer("models/demo")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def answers(self, seed, *flags):
        """Ten, of this seed and the next ones."""
        told = self.server.client("complete", "--json", "--temperature=5", "--top_p=1",
                                  "--top_k=0", "--max_tokens=200", f"--seed={seed}",
                                  "--num_choices=10", *flags, "Once upon a time")
        self.assertEqual(told.returncode, 0, told.stdout)
        answers = [json.loads(line) for line in told.stdout.splitlines()]
        self.assertEqual(len(answers), 10)
        for answer in answers:
            self.assertEqual(answer["finished"]["reason"], "FINISH_REASON_EOS", answer)
        return [answer["text"] for answer in answers]

    def test_json_by_a_schema(self):
        texts = set()
        for seed in range(0, 100, 10):
            for text in self.answers(seed, "--json_schema=" + json.dumps(SCHEMA)):
                self.assertTrue(is_valid(json.loads(text)), text)
                texts.add(text)
        self.assertGreater(len(texts), 90)

    def test_pattern_and_grammar(self):
        for text in self.answers(1, r"--regex=[A-Z][a-z]{1,7}( \d{1,3}){2}"):
            self.assertRegex(text, r"\A[A-Z][a-z]{1,7}( \d{1,3}){2}\Z")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "list.gbnf")
            with open(path, "w", encoding="utf-8") as f:
                f.write('root ::= item{2,3} # lines\nitem ::= "- " [a-z\u00e9]{1,5} "\\n"\n')
            for text in self.answers(1, "--grammar=@" + path):
                self.assertRegex(text, "\\A(- [a-z\u00e9]{1,5}\n){2,3}\\Z")

    def test_what_is_cut_is_a_beginning(self):
        told = self.server.json("complete", "--regex=(ab){100}c", "--max_tokens=2", "x")
        self.assertEqual(told["finished"]["reason"], "FINISH_REASON_LENGTH")
        self.assertRegex(told["text"], r"\A[abc]+\Z")

    def test_refused_by_name_and_place(self):
        for flag, message in (('--json_schema={"properties": {"a": {"not": {}}}}',
                               'json_schema: at #/properties/a: keyword "not" is not supported'),
                              ("--regex=a(?=b)", "regex: at byte 1: look-around"),
                              ("--regex=([a-z]?){5000}", "regex: it is too ambiguous"),
                              ("--grammar=root ::= root", "grammar: rule root can begin with"),
                              ("--grammar=@/nowhere", "--grammar: /nowhere cannot be read")):
            told = self.server.client("complete", flag, "x")
            self.assertNotEqual(told.returncode, 0)
            self.assertIn(message, told.stderr)


if __name__ == "__main__":
    unittest.main()
