"""Calls of tools that are forced, in formats that are no JSON, from a model that writes nonsense."""

import json
import os
import tempfile
import unittest
import urllib.request

from tests.server.processes import RealServer, with_template

TEMPLATE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}")
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {
    "type": "object", "required": ["where", "days"],
    "properties": {"where": {"enum": ["here", "there"], "type": "string"},
                   "days": {"type": "integer", "minimum": 1, "maximum": 99},
                   "deep": {"type": "boolean"},
                   "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}}}}},
         {"type": "function", "function": {"name": "stop"}}]


class ForcedCallsTest(unittest.TestCase):

    def check(self, call):
        arguments = json.loads(call["arguments"])
        if call["name"] == "stop":
            self.assertEqual(arguments, {})
            return
        self.assertEqual(call["name"], "find")
        self.assertLessEqual(set(arguments), {"where", "days", "deep", "tags"})
        self.assertIn(arguments["where"], ("here", "there"))
        self.assertIn(arguments["days"], range(1, 100))
        self.assertIs(type(arguments.get("deep", True)), bool)
        self.assertLessEqual(set(arguments.get("tags", [])), {"a", "b"})

    def test_they_are_calls_by_the_schema(self):
        with tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"]) as folder:
            model = with_template(folder, TEMPLATE)
            for tool_format in ("qwen_xml", "mistral_args", "lfm2", "olmo"):
                with RealServer(model, "--threads=1", "--tool_format=" + tool_format) as server:
                    for choice in ("required", {"type": "function", "function": {"name": "find"}}):
                        with self.subTest(tool_format=tool_format, choice=choice):
                            self.ask(server, choice)

    def ask(self, server, choice):
        body = {"messages": [{"role": "user", "content": "Find it."}], "tools": TOOLS, "tool_choice": choice,
                "temperature": 2, "max_tokens": 200, "n": 8, "seed": 3}
        request = urllib.request.Request("http://127.0.0.1:%d/v1/chat/completions" % server.http_port,
                                         json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            choices = json.load(answer)["choices"]
        names = set()
        for told in choices:
            self.assertEqual(told["finish_reason"], "tool_calls", told)
            self.assertFalse(told["message"]["content"], told)
            self.assertEqual(len(told["message"]["tool_calls"]), 1)
            call = told["message"]["tool_calls"][0]["function"]
            self.check(call)
            names.add(call["name"])
        if choice != "required":
            self.assertEqual(names, {"find"})


if __name__ == "__main__":
    unittest.main()
