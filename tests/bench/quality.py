#!/usr/bin/env python3
"""What another arithmetic costs in quality: bits per byte of a text, the largest difference of a logit
from those of the first configuration, and how many in 1,000 of the tokens that greedy decoding would
take differ from its own, after the same text. A configuration is a string of flags that both `packrat
logits` and `packrat perplexity` take; the first is what the others are held against.

  ./dev bench --quality --model=models/demo --text=FILE -- "--cg_tolerance=1e-7" ""

Without --text the ids are random, as for a model without a tokenizer, and there are no bits per byte.
Prints a table in Markdown.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile

import numpy

LENGTH = 512  # Tokens in a row of ids.


def run(command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, **kwargs)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}: exit status {done.returncode}")
    return done.stdout


def write_ids(path, ids):
    data = ids.astype("<i4").tobytes()
    header = json.dumps({"input_ids": {"dtype": "I32", "shape": ids.shape,
                                       "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + data)


def read_logits(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))["logits"]
    return numpy.memmap(path, "<f4", "r", 8 + size + entry["data_offsets"][0], tuple(entry["shape"]))


def compare(base, other):
    """Largest difference, and the share of positions where the largest logit is another one's."""
    largest, differ = 0.0, 0
    for a, b in zip(base, other):
        largest = max(largest, float(numpy.abs(a - b).max()))
        differ += int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    return largest, differ / (base.shape[0] * base.shape[1])


def ids_of(args, vocab):
    count = args.rows * LENGTH
    if not args.text:
        return numpy.random.default_rng(1).integers(0, vocab, count)
    with open(args.text, encoding="utf-8") as file:
        text = json.dumps(file.read(count * 16).replace("<|endoftext|>", "\n"))
    ids = json.loads(run([args.encode, args.model], input=text + "\n"))[0]
    if len(ids) < count:
        sys.exit(f"{args.text} has {len(ids)} tokens; {count} are needed (--rows)")
    return numpy.array(ids[:count])


def bits_per_byte(args, flags):
    lines = run([args.tools, "perplexity", f"--model={args.model}", f"--file={args.text}", *flags])
    line = next(line for line in lines.splitlines() if line.startswith("all:"))
    return line.split(" bits per byte")[0].split()[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", help="packrat_tools")
    parser.add_argument("encode", help="//tests/models:encode")
    parser.add_argument("configurations", nargs="+", help="flags, a string each; '' for none")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", help="UTF-8, as for packrat perplexity")
    parser.add_argument("--rows", type=int, default=8, help=f"texts of {LENGTH} tokens to compare")
    args = parser.parse_args()
    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as file:
        vocab = json.load(file)["vocab_size"]
    # Gigabytes of logits, where /tmp may be memory.
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        tokens = os.path.join(folder, "ids.safetensors")
        write_ids(tokens, ids_of(args, vocab).reshape(args.rows, LENGTH))
        print("| flags | bits per byte | largest difference of a logit | "
              "greedy tokens that differ in 1,000 |\n|---|---|---|---|")
        base = None
        for number, configuration in enumerate(args.configurations):
            flags = shlex.split(configuration)
            output = os.path.join(folder, f"{number}.safetensors")
            run([args.tools, "logits", f"--model={args.model}", f"--tokens={tokens}",
                 f"--output={output}", *flags])
            logits = read_logits(output)
            bits = bits_per_byte(args, flags) if args.text else "-"
            name = f"`{configuration}`" if configuration else "(none)"
            if base is None:
                base = logits
                print(f"| {name} | {bits} | - | - |", flush=True)
                continue
            largest, differ = compare(base, logits)
            os.unlink(output)
            print(f"| {name} | {bits} | {largest:.3g} | {1000 * differ:.1f} |", flush=True)


if __name__ == "__main__":
    main()
