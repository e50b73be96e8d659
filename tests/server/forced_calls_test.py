"""Calls of tools that are forced, from a model that writes nonsense."""

import json
import os
import tempfile
import unittest
import urllib.error
import urllib.request

from tests.server.processes import ROOT, RealServer, with_template

TEMPLATE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}")
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {
    "type": "object", "required": ["where", "days"],
    "properties": {"where": {"enum": ["here", "there"], "type": "string"},
                   "days": {"type": "integer", "minimum": 1, "maximum": 99},
                   "deep": {"type": "boolean"},
                   "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}}}}},
         {"type": "function", "function": {"name": "stop"}}]

# How templates write a call back, as models write it.
CALL = {
    "hermes": """<tool_call>
{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}
</tool_call>""",
    "qwen_xml": """<tool_call>
<function={{ f.name }}>
{% for name, value in f.arguments.items() %}
<parameter={{ name }}>
{{ value if value is string else value | tojson }}
</parameter>
{% endfor %}
</function>
</tool_call>""",
    "llama": """{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}""",
    "mistral": """[TOOL_CALLS][{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}]""",
    "mistral_args": """[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}""",
    "lfm2": """<|tool_call_start|>[{{ f.name }}({% for name, value in f.arguments.items() %}
{{ name }}={{ value | tojson }}{{ '' if loop.last else ', ' }}{% endfor %})]<|tool_call_end|>""",
}
# Behind an answer stands a special token.
TURNS = ("{%% for m in messages %%}{%% if m.role == 'assistant' %%}{%% for call in m.tool_calls %%}"
         "{%% set f = call.function %%}%s{{ eos_token }}{%% endfor %%}{%% else %%}{{ m.role }}: {{ m.content }}\n"
         "{%% endif %%}{%% endfor %%}")
# Without what formats write in several ways.
PLAIN = json.loads(json.dumps(TOOLS))
del PLAIN[0]["function"]["parameters"]["properties"]["deep"]


def with_marks(folder, template):
    """The bundled weights, which then mean nothing, with a tokenizer in which [TOOL_CALLS] and [ARGS] are special
    tokens; the latter's id."""
    for name in ("config.json", "model.safetensors"):
        os.symlink(os.path.join(ROOT, "models/demo", name), os.path.join(folder, name))
    with open(os.path.join(ROOT, "tests/data/tokenizer_json/llama.json"), encoding="utf-8") as file:
        tokenizer = json.load(file)
    made = len(tokenizer["model"]["vocab"])
    for number, content in enumerate(("[TOOL_CALLS]", "[ARGS]")):
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": made + number, "content": content})
    for name, told in (("tokenizer.json", tokenizer),
                       ("tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(told, file)
    with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(template)
    return made + 1


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

    def test_a_session_goes_on_from_them(self):
        for tool_format in CALL:
            with self.subTest(tool_format=tool_format), \
                    tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"]) as folder:
                model = with_template(folder, TURNS % CALL[tool_format])
                with RealServer(model, "--threads=1", "--tool_format=" + tool_format) as server:
                    self.talk(server)

    def test_a_mark_that_is_a_special_token_is_one(self):
        with tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"]) as folder:
            args = with_marks(folder, TURNS % CALL["mistral_args"])
            with RealServer(folder, "--threads=1") as server:
                ids = self.talk(server)
                self.assertEqual(ids.count(args), 4)

    def talk(self, server):
        """Four turns of forced calls in a session; its ids."""
        session = self.post(server, "/packrat/v1/CreateSession", {})["session"]
        messages = []
        for turn in range(4):
            messages.append({"role": "user", "content": "Find it, %d." % turn})
            body = {"messages": messages, "tools": PLAIN, "tool_choice": "required", "temperature": 2,
                    "max_tokens": 200, "seed": turn, "session": session}
            told = self.post(server, "/v1/chat/completions", body)["choices"][0]["message"]
            self.check(told["tool_calls"][0]["function"])
            messages.append(told)
            messages.append({"role": "tool", "tool_call_id": told["tool_calls"][0]["id"], "content": "Found."})
        told = self.post(server, "/packrat/v1/GetSession", {"session": session, "include_token_ids": True})
        self.assertEqual(told["num_turns"], 4)
        return told["token_ids"]

    @staticmethod
    def post(server, path, body):
        request = urllib.request.Request("http://127.0.0.1:%d%s" % (server.http_port, path),
                                         json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None

    def test_what_is_wrong_is_named(self):
        user = [{"role": "user", "content": "Find it."}]
        bad = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
        tools = [TOOLS[1], {"type": "function", "function": {"name": "f", "parameters": bad}}]
        cases = [({"tools": tools, "tool_choice": "required"}, "tools[1].function.parameters",
                  "at #/properties/a: keyword \\\"uniqueItems\\\""),
                 ({"messages": [{"role": "usr", "content": "a"}]}, "messages[0].role", "assistant")]
        with tempfile.TemporaryDirectory(dir=os.environ["TEST_TMPDIR"]) as folder:
            for tool_format in ("hermes", "qwen_xml"):
                with RealServer(with_template(folder, TEMPLATE) if not os.listdir(folder) else folder,
                                "--threads=1", "--tool_format=" + tool_format) as server:
                    for body, param, message in cases:
                        with self.assertRaises(AssertionError) as refused:
                            self.post(server, "/v1/chat/completions", {"messages": user, **body})
                        self.assertIn('"param":"%s"' % param, str(refused.exception))
                        self.assertIn(message, str(refused.exception))
                    # Where no call is asked for nothing is made of them.
                    self.post(server, "/v1/chat/completions", {"messages": user, "tools": tools, "max_tokens": 2})

    def ask(self, server, choice):
        body = {"messages": [{"role": "user", "content": "Find it."}], "tools": TOOLS, "tool_choice": choice,
                "temperature": 2, "max_tokens": 200, "n": 8, "seed": 3}
        choices = self.post(server, "/v1/chat/completions", body)["choices"]
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
