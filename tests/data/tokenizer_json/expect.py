"""Writes expected.json: what the Python package `tokenizers` makes of texts; its test is
tests/models/bpe_library_test.cc.

    python3 tests/data/tokenizer_json/expect.py NOVELS.txt.xz

`texts`: awkward ones (texts.py), then some hundred lines of novels in the public domain. `parts`:
of which the test makes `generated` further lines, as generated() does. For each case, a tokenizer of
this folder with a JSON patch, and whether decoding gives `texts` back: `ids` of every text, and of
every generated line a hash of four digits; or, to save space, one hash of all. `large`: the same for some of
them with as many tokens as the published vocabularies of their kind have.
"""

import copy
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


# Qwen's normalizer and patterns, of Qwen 2 and of Qwen 3.5.
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?LETTERS+|\p{N}| ?[^\sMARKS\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+")


def qwen(letters, marks):
    return [replace("/normalizer", {"type": "NFC"}), replace("/model/ignore_merges", False),
            replace(SPLIT + "pattern/Regex", QWEN.replace("LETTERS", letters).replace("MARKS", marks))]


def add(path, value):
    return {"op": "add", "path": path, "value": value}


def added(token_id, content, **flags):
    """One more token; flags that are not named are false."""
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return add("/added_tokens/-", {"id": token_id, "content": content, **token, **flags})


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def cuts(*pretokenizers):
    """These in place of the file's, before or after ByteLevel as it is given."""
    return replace("/pre_tokenizer", {"type": "Sequence", "pretokenizers": list(pretokenizers)})


def byte_level(use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


# Nemotron's and Mistral's pattern, OLMo's, and GPT-4o's.
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
OLMO = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|"
        r"\s*[\r\n]|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Falcon's way: what comes after ByteLevel sees bytes as characters, some of which are digits.
FALCON = cuts({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(True),
              {"type": "Digits", "individual_digits": False}, split({"Regex": "[0-9][0-9][0-9]"}))
# Several cuts, one after the other, as of DeepSeek's descendants.
SEQUENCE = cuts(split({"Regex": r"\p{N}{1,3}"}), split({"Regex": "[一-龥぀-ゟ゠-ヿ]+"}),
                split({"Regex": r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
                                r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}), byte_level())
GEMMA = [replace("/normalizer", {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
         replace("/pre_tokenizer", split({"String": " "}, "MergedWithPrevious")),
         replace("/decoder/decoders", [
             {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
             {"type": "Fuse"}]),
         replace("/model/unk_token", "<unk>")]
# Tokens that take white space or are words; some are white space that another one may have taken.
STRIPS = [replace("/added_tokens/2/lstrip", True), replace("/added_tokens/4/rstrip", True),
          replace("/added_tokens/6/single_word", True), added(4099, "xyz", lstrip=True, rstrip=True),
          added(3795, "THE", single_word=True, normalized=True, lstrip=True), added(4100, "  "),
          added(4101, "hello", single_word=True, rstrip=True, normalized=True),
          added(4102, "\n", rstrip=True), added(4103, "\t", lstrip=True, normalized=True)]


def form(name):
    return [replace("/normalizer", {"type": name})]


# Some bytes have no token any more. Their ids are given to others, so that there are no holes.
NO_TOKEN = [step for i, entry in enumerate(["`", "ý", "Ą", "î"]) for step in (
    {"op": "move", "from": "/model/vocab/" + entry, "path": "/model/vocab/q-%d-q" % i},)]
# What `transformers` 4 wrote for SentencePiece's models, in place of Metaspace.
PREPEND = [replace("/pre_tokenizer", None), replace("/normalizer", {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})]


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
    ("llama3", qwen(r"\p{L}", ""), True, False),
    ("llama3", qwen(r"[\p{L}\p{M}]", r"\p{M}"), False, False),
    ("gpt2", NO_TOKEN, False, False),
    ("gpt2", NO_TOKEN + [replace("/model/unk_token", "!")], False, False),
    ("gpt2", NO_TOKEN + [replace("/model/unk_token", "!"), replace("/model/fuse_unk", True)], True, False),
    ("llama", [], False, False),
    ("llama", [], True, False),
    ("llama", [replace("/pre_tokenizer/prepend_scheme", "always")], True, False),
    ("llama", [replace("/pre_tokenizer/prepend_scheme", "never"), replace("/pre_tokenizer/split", True)],
     True, False),
    ("llama", PREPEND, False, False),
    ("llama", PREPEND, True, False),
    ("llama", PREPEND + [replace("/added_tokens/1/normalized", True)], True, False),
    ("llama", PREPEND + [replace("/model/byte_fallback", False), replace("/model/unk_token", "<unk>")],
     False, False),
    ("llama", [replace("/model/byte_fallback", False), replace("/model/fuse_unk", False),
               replace("/model/unk_token", "<unk>")], True, False),
    ("llama", GEMMA, False, True),
    ("llama", GEMMA + [added(800, "  "), added(801, "\n\n", normalized=True),
                       added(802, "▁▁")], True, False),
    ("llama", GEMMA + [replace("/pre_tokenizer", split({"String": "▁"}, "MergedWithNext"))], False, False),
    ("llama", GEMMA + [replace("/pre_tokenizer", split({"String": "▁"}, "Contiguous", True))], False, False),
    ("llama", PREPEND + [added(800, "xyz", lstrip=True, rstrip=True), added(801, "the", single_word=True)],
     True, False),
    ("gpt2", [FALCON], False, False),
    ("gpt2", [cuts(byte_level(True), {"type": "Digits", "individual_digits": True})], False, False),
    ("gpt2", [cuts(split({"String": "."}, "MergedWithPrevious"), {"type": "Punctuation"},
                   byte_level(True))], True, False),
    ("llama3", [replace(SPLIT + "pattern/Regex", TEKKEN)], True, False),
    ("llama3", [replace(SPLIT + "pattern/Regex", OLMO)], False, False),
    ("llama3", [replace(SPLIT + "pattern/Regex", O200K)], False, False),
    ("llama3", [SEQUENCE], True, False),
    ("llama3", STRIPS, True, False),
    ("llama3", STRIPS + qwen(r"\p{L}", ""), False, False),
    ("llama3", form("NFKC"), True, False),
    ("llama3", STRIPS + form("NFKC"), True, False),
    ("llama3", form("NFD"), False, False),
    ("gpt2", form("NFKD"), False, False),
]


# Tokenizer, patch, and the size of the vocabulary of LFM2, Granite 4, Qwen3.5 and RecurrentGemma.
LARGE = [
    ("llama3", [], 65536),
    ("llama3", [replace(SPLIT + "pattern/Regex", OLMO)], 100352),
    ("llama3", qwen(r"[\p{L}\p{M}]", r"\p{M}"), 248320),
    ("llama", GEMMA, 256000),
]
LARGE_LINES = 2000


def found(data, pointer):
    """What holds the place that a JSON pointer names, and its name there."""
    *path, last = pointer.strip("/").split("/")
    for part in path:
        data = data[int(part) if isinstance(data, list) else part]
    return data, last


def patched(name, patch):
    """A tokenizer of this folder with a JSON patch."""
    with open(os.path.join(HERE, name + ".json"), encoding="utf-8") as f:
        data = json.load(f)
    for step in patch:
        if step["op"] == "move":
            target, last = found(data, step["from"])
            value = target.pop(last)
        else:
            value = copy.deepcopy(step["value"])
        target, last = found(data, step["path"])
        if last == "-":
            target.append(value)
        else:
            target[last] = value
    return data


def numbers(state):
    """below(n): a number below n, by a linear congruential generator."""
    def below(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        return (state >> 33) % n

    below(2)  # The first values of neighbouring seeds are alike.
    return below


def enlarged(data, size):
    """With so many tokens: each further one is two of those before, mostly early ones, which are frequent. What was
    added comes after them."""
    vocab, merges = data["model"]["vocab"], data["model"]["merges"]
    names = [name for name, _ in sorted(vocab.items(), key=lambda entry: entry[1]) if name[0] != "<"]
    first = 1 + max(vocab.values())
    added_tokens = [token for token in data["added_tokens"] if token["id"] >= first]
    below = numbers(size)

    def pick():
        return names[below(len(names) if below(4) == 0 else min(len(names), 3000))]

    while first < size - len(added_tokens):
        pair = [pick(), pick()]
        name = "".join(pair)
        if len(name.encode()) > 24 or name in vocab:
            continue
        vocab[name] = first
        merges.append(pair)
        names.append(name)
        first += 1
    for i, token in enumerate(added_tokens):
        token["id"] = first + i
    data["post_processor"] = None  # It names ids of before.
    return data


def generated(line):
    """The line's text: parts chosen by such a generator."""
    below = numbers(line)
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


def large(inputs):
    cases = []
    for name, patch, size in LARGE:
        tokenizer = Tokenizer.from_str(json.dumps(enlarged(patched(name, patch), size)))
        tokenizer.encode_special_tokens = True
        hashes = [fnv(tokenizer.encode(text, add_special_tokens=False).ids)
                  for text in inputs + [generated(i) for i in range(LARGE_LINES)]]
        cases.append({"tokenizer": name, "patch": patch, "size": size,
                      "hash": f"{fnv(h & 0xFFFFFFFF for h in hashes):016x}"})
    return cases


def main():
    inputs = texts.EDGES + novel_lines(sys.argv[1], 300)
    lines = [generated(i) for i in range(LINES)]
    cases = []
    for name, patch, special, verbatim in CASES:
        tokenizer = Tokenizer.from_str(json.dumps(patched(name, patch)))
        tokenizer.encode_special_tokens = not special
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in inputs]
        hashes = [fnv(tokenizer.encode(text, add_special_tokens=False).ids) for text in lines]
        lossless = all(tokenizer.decode(i, skip_special_tokens=False) == text
                       for i, text in zip(ids, inputs))
        # Every list by its hash, so that its end is part of it.
        case = {"tokenizer": name, "patch": patch, "special": special, "lossless": lossless,
                "hash": f"{fnv(h & 0xFFFFFFFF for h in [fnv(i) for i in ids] + hashes):016x}"}
        if verbatim:
            case.update(ids=ids, lines="".join(f"{h & 0xFFFF:04x}" for h in hashes))
        cases.append(case)
    with open(os.path.join(HERE, "expected.json"), "w", encoding="ascii") as f:
        json.dump({"texts": inputs, "parts": texts.PARTS, "cases": cases, "large": large(inputs)}, f,
                  separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
