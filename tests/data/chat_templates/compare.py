"""Compares with jinja2 what the interpreter makes of templates that are not in this repository, because
their licences differ: those of published models.

    ./dev templates                      # those of compared.tsv
    ./dev templates TEMPLATE.jinja...

Prints a row for each, and on stderr where they differ. The templates of compared.tsv are those that llama.cpp
collects, https://github.com/ggml-org/llama.cpp/tree/master/models/templates, as they are in the source package
of PyPI's xllamacpp: the files' names say whose models they are of, and sha256 begins which version it was.
Whoever changes the interpreter or the conversations writes the table anew with --write.
"""

import argparse
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

import expect
import snippets

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(HERE, "compared.tsv")
HEADER = "template\tsha256\ttexts\tequal\trefused by both"
SOURCE, VERSION = "xllamacpp", "2026.10.11549"  # Has llama.cpp of October 2026 in it.


def published():
    """The paths of their templates, which are kept in this Python's environment."""
    kept = os.path.join(sys.prefix, "chat-templates-" + VERSION)
    if not os.path.exists(kept):
        with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
            print("getting the source of %s %s" % (SOURCE, VERSION), file=sys.stderr)
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                            "--no-deps", "--no-binary=" + SOURCE, "--dest=" + folder, SOURCE + "==" + VERSION],
                           check=True)
            (path,) = glob.glob(folder + "/*.tar.gz")
            made = folder + "/templates"
            os.mkdir(made)
            with tarfile.open(path) as archive:
                for member in archive:
                    where, name = os.path.split(member.name)
                    if where.endswith("/llama.cpp/models/templates") and name.endswith(".jinja"):
                        with open(os.path.join(made, name), "wb") as file:
                            shutil.copyfileobj(archive.extractfile(member), file)
            os.rename(made, kept)
    return glob.glob(kept + "/*.jinja")


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("render", help="the program //tests/models:render; ./dev gives it")
    parser.add_argument("templates", nargs="*", metavar="TEMPLATE.jinja", help="default: those of compared.tsv")
    parser.add_argument("--write", action="store_true", help="write compared.tsv")
    arguments = parser.parse_args()
    if arguments.write and arguments.templates:
        parser.error("--write is of the templates of compared.tsv")
    rows = [HEADER]
    print(HEADER)
    for path in sorted(arguments.templates or published(), key=lambda path: os.path.basename(path).lower()):
        equal, texts, refused, different = compare(arguments.render, path)
        with open(path, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()[:16]
        rows.append("\t".join(map(str, (os.path.basename(path), digest, texts, equal, refused))))
        print(rows[-1], flush=True)
        for theirs, ours in different[:2]:
            print("    jinja2: %.300s\n    here:   %.300s" % (theirs, ours), file=sys.stderr)
    if arguments.templates:
        return
    if arguments.write:
        with open(TABLE, "w", encoding="utf-8") as f:
            f.write("\n".join(rows) + "\n")
    with open(TABLE, encoding="utf-8") as f:
        before = f.read().splitlines()
    other = sorted(set(before) ^ set(rows))
    if other:
        sys.exit("not as in compared.tsv, which --write writes:\n" + "\n".join(other))
    print("all %d as in compared.tsv" % (len(rows) - 1), file=sys.stderr)


if __name__ == "__main__":
    main()
