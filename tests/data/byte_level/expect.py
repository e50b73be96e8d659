"""Writes expected.json: what the Python package `tokenizers` makes of texts; its test is
tests/models/byte_level_bpe_test.cc.

    python3 tests/data/byte_level/expect.py NOVELS.txt.xz

`texts`: awkward ones (texts.py), then some hundred lines of novels in the public domain. `parts`:
of which the test makes 10,000 further lines, as generated() does. For each case, a tokenizer of this
folder with a JSON patch: `ids` of every text, and of every generated line a hash of four digits;
or, to save space, one hash of each.
"""

import json
import lzma
import os
import sys

from tokenizers import Tokenizer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import texts  # pylint: disable=wrong-import-position

HERE = os.path.dirname(os.path.abspath(__file__))
LINES = 10000
MASK = (1 << 64) - 1
SPLIT = "/pre_tokenizer/pretokenizers/0/"


def replace(path, value):
    return {"op": "replace", "path": path, "value": value}


# Tokenizer, patch, whether special tokens are read, whether ids are written out.
CASES = [
    ("gpt2", [], False, True),
    ("gpt2", [], True, False),
    ("gpt2", [replace("/pre_tokenizer/add_prefix_space", True)], False, False),
    ("gpt2", [replace("/pre_tokenizer/use_regex", False)], False, False),
    ("gpt2", [replace("/pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
         "use_regex": True}]})], False, False),
    ("llama3", [], True, True),
    ("llama3", [], False, False),
    ("llama3", [replace("/model/ignore_merges", False)], True, False),
    ("llama3", [replace(SPLIT + "behavior", "Removed"), replace(SPLIT + "invert", True)], True,
     False),
    ("llama3", [replace(SPLIT + "behavior", "Removed"), replace(SPLIT + "invert", True),
                replace(SPLIT + "pattern/Regex", r"\p{Lu}?[\p{Ll}\p{M}]+|\p{Nd}(?=\d)")], True, False),
]


def generated(line):
    """The line's text: parts chosen by a linear congruential generator."""
    state = line

    def below(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        return (state >> 33) % n

    below(2)  # The first values of neighbouring seeds are alike.
    return "".join(texts.PARTS[below(len(texts.PARTS))] for _ in range(1 + below(24)))


def fnv(values, state=0xCBF29CE484222325):
    """FNV-1a of 32-bit values, byte by byte, the lowest first."""
    for value in values:
        for shift in (0, 8, 16, 24):
            state = ((state ^ (value >> shift & 255)) * 0x100000001B3) & MASK
    return state


def novel_lines(path, count):
    with lzma.open(path, "rt", encoding="utf-8") as f:
        lines = (line.rstrip("\n") for i, line in enumerate(f) if i % 331 == 0)
        return [line for line in lines if 40 < len(line) < 250][:count]


def main():
    inputs = texts.EDGES + novel_lines(sys.argv[1], 300)
    lines = [generated(i) for i in range(LINES)]
    cases = []
    for name, patch, special, verbatim in CASES:
        with open(os.path.join(HERE, name + ".json"), encoding="utf-8") as f:
            data = json.load(f)
        for step in patch:
            *path, last = step["path"].strip("/").split("/")
            target = data
            for part in path:
                target = target[int(part) if isinstance(target, list) else part]
            target[last] = step["value"]
        tokenizer = Tokenizer.from_str(json.dumps(data))
        tokenizer.encode_special_tokens = not special
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in inputs]
        hashes = [fnv(tokenizer.encode(text, add_special_tokens=False).ids) for text in lines]
        # Every list by its hash, so that its end is part of it.
        case = {"tokenizer": name, "patch": patch, "special": special,
                "hash": f"{fnv(h & 0xFFFFFFFF for h in [fnv(i) for i in ids] + hashes):016x}"}
        if verbatim:
            case.update(ids=ids, lines="".join(f"{h & 0xFFFF:04x}" for h in hashes))
        cases.append(case)
    with open(os.path.join(HERE, "expected.json"), "w", encoding="ascii") as f:
        json.dump({"texts": inputs, "parts": texts.PARTS, "cases": cases}, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
