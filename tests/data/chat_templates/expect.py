"""Writes expected.json: what jinja2 makes of the templates of this folder and of small ones, with the
settings with which `transformers` renders chat templates. The test is tests/models/chat_template_test.cc.

    python3 tests/data/chat_templates/expect.py      # wants jinja2

Where jinja2 fails, `error` is its message; only that of raise_exception() is compared.
"""

import datetime
import glob
import json
import os

import jinja2
import jinja2.ext
import jinja2.sandbox

import snippets

HERE = os.path.dirname(os.path.abspath(__file__))
NOW = datetime.datetime(2024, 2, 5, 6, 7, 8)


class Generation(jinja2.ext.Extension):
    """{% generation %}, of which only the scope matters here."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class Raised(Exception):
    pass


def environment():
    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    def raise_exception(message):
        raise Raised(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(source, variables):
    try:
        return {"text": environment().from_string(source).render(**variables)}
    except Raised as e:
        return {"raised": str(e)}
    except Exception as e:  # Whatever Python raises.
        return {"error": "%s: %s" % (type(e).__name__, e)}


def message_of(message):
    """As apply_chat_template() of transformers 5.24 gives it to a template."""
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = given.get("reasoning_content")
    return given if reasoning is None else {"thinking": reasoning, **given}


def variables_of(conversation):
    """Those that transformers sets."""
    return {"bos_token": "<s>", "eos_token": "</s>", "documents": None, "tools": conversation.get("tools"),
            "messages": [message_of(message) for message in conversation["messages"]],
            "add_generation_prompt": conversation.get("add_generation_prompt", True),
            **conversation.get("kwargs", {})}


def main():
    out = {"variables": snippets.VARIABLES, "snippets": [], "conversations": snippets.CONVERSATIONS,
           "templates": []}
    for source in snippets.SNIPPETS:
        out["snippets"].append({"source": source, **render(source, snippets.VARIABLES)})
    for path in sorted(glob.glob(HERE + "/*.jinja")):
        with open(path, encoding="utf-8") as f:
            source = f.read()
        results = [render(source, variables_of(c)) for c in snippets.CONVERSATIONS]
        out["templates"].append({"file": os.path.basename(path), "results": results})
    with open(HERE + "/expected.json", "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
