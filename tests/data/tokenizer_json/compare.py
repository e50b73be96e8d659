"""Compares a tokenizer.json as the server reads it with the library that wrote it.

    python3 tests/data/tokenizer_json/compare.py ENCODE TOKENIZER.json TEXT[.xz] [--lines N] [--special]

ENCODE is the program //tests/models:encode; the Python package `tokenizers` is needed. Without a
TOKENIZER.json ("cases") it takes the tokenizers of expect.py in turn. Compares the
ids of every line with its line break, of groups of ten lines, of every assigned character of
Unicode between others, and of mixtures of awkward parts; and what the ids decode to, but for bytes
that are no text, of which the libraries make different numbers of U+FFFD.
"""

import argparse
import itertools
import json
import lzma
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Tokenizer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import expect  # pylint: disable=wrong-import-position
import texts  # pylint: disable=wrong-import-position


def characters():
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code <= 0xDFFF and unicodedata.category(chr(code)) != "Cn":
            c = chr(code)
            yield f"a{c}b {c}1{c}{c} '{c}\n{c} e\u0301{c}\u0323{c}\u0301 {c}THE{c} xyz"


def mixtures(count):
    rng = random.Random(11)
    for _ in range(count):
        yield "".join(rng.choice(texts.PARTS) for _ in range(rng.randrange(1, 30)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("encode")
    parser.add_argument("tokenizer")
    parser.add_argument("text")
    parser.add_argument("--lines", type=int, default=10000)
    parser.add_argument("--special", action="store_true")
    args = parser.parse_args()
    opener = lzma.open if args.text.endswith(".xz") else open
    with opener(args.text, "rt", encoding="utf-8", newline="") as f:
        lines = list(itertools.islice(f, args.lines))
    groups = ["".join(lines[i:i + 10]) for i in range(0, len(lines), 10)]
    cases = {"lines": lines, "groups": groups, "edge cases": texts.EDGES,
             "characters": list(characters()), "mixtures": list(mixtures(20000))}
    if args.tokenizer != "cases":
        with open(args.tokenizer, encoding="utf-8") as f:
            sys.exit(compare(args.encode, json.load(f), args.special, cases) != 0)
    failed = 0
    for i, (name, patch, special, _) in enumerate(expect.CASES):
        print(f"case {i}: {name}{', special tokens read' if special else ''}", flush=True)
        failed += compare(args.encode, expect.patched(name, patch), special, cases)
    sys.exit(failed != 0)


def compare(encode, tokenizer, special, cases):
    """How many texts differ."""
    reference = Tokenizer.from_str(json.dumps(tokenizer))
    reference.encode_special_tokens = not special
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
            json.dump(tokenizer, f)
        for name, inputs in cases.items():
            done = subprocess.run(
                [encode, folder, "special" if special else "plain"],
                input="".join(json.dumps(text) + "\n" for text in inputs), encoding="utf-8",
                stdout=subprocess.PIPE, check=True)
            different = 0
            for text, line in zip(inputs, done.stdout.strip("\n").split("\n"), strict=True):
                ids, decoded = json.loads(line)
                expected = reference.encode(text, add_special_tokens=False).ids
                back = reference.decode(expected, skip_special_tokens=False)
                if ids != expected or (decoded != back and "\ufffd" not in back):
                    different += 1
                    if different < 5:
                        print(repr(text), expected, ids, repr(back), repr(decoded))
            print(f"{name}: {len(inputs)} texts, {different} differ", flush=True)
            failed += different
    return failed


if __name__ == "__main__":
    main()
