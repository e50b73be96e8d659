"""Compares with jinja2 what the interpreter makes of templates that are not in this repository, because
their licences differ: those of published models.

    bazel build //tests/models:render
    python3 tests/data/chat_templates/compare.py bazel-bin/tests/models/render TEMPLATE.jinja...

Prints a row for each, and on stderr where they differ. compared.tsv is what came of those that llama.cpp
collects, https://github.com/ggml-org/llama.cpp/tree/master/models/templates, in October 2026; the files'
names say whose models they are of, and sha256 begins which version it was.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile

import expect
import snippets


def compare(render, path):
    """Texts that are equal, those of jinja2, refusals that both have, and what differs."""
    with open(path, encoding="utf-8") as f:
        source = f.read()
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/tokenizer_config.json", "w", encoding="utf-8") as f:
            json.dump({"chat_template": source, "bos_token": "<s>", "eos_token": "</s>"}, f)
        lines = "".join(json.dumps(c) + "\n" for c in snippets.CONVERSATIONS)
        done = subprocess.run([render, folder], input=lines, capture_output=True, text=True, check=True)
    ours = [json.loads(line) for line in done.stdout.splitlines()]
    equal, texts, refused, different = 0, 0, 0, []
    for conversation, ours_now in zip(snippets.CONVERSATIONS, ours):
        theirs = expect.render(source, expect.variables_of(conversation))
        if "text" in theirs:
            texts += 1
            equal += theirs["text"] == ours_now.get("text")
            if theirs["text"] != ours_now.get("text"):
                different.append((theirs, ours_now))
        elif "text" in ours_now:
            different.append((theirs, ours_now))
        else:
            refused += 1
    return equal, texts, refused, different


def main():
    print("template\tsha256\ttexts\tequal\trefused by both")
    for path in sorted(sys.argv[2:], key=lambda path: os.path.basename(path).lower()):
        equal, texts, refused, different = compare(sys.argv[1], path)
        with open(path, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()[:16]
        print(os.path.basename(path), digest, texts, equal, refused, sep="\t", flush=True)
        for theirs, ours in different[:2]:
            print("    jinja2: %.300s\n    here:   %.300s" % (theirs, ours), file=sys.stderr)


if __name__ == "__main__":
    main()
