#!/usr/bin/env python3
"""The server under load, through gRPC: what streaming costs at batch 16, 200 streams at once, and
256 and 1,000 streams of a small, fast model against the bare engine.

Prints rows like tests/bench/bench: benchmark, figure, unit, limit, share, note.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request

GRPC, HTTP = "127.0.0.1:50951", "127.0.0.1:8951"


def metrics():
    with urllib.request.urlopen(f"http://{HTTP}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
            for line in lines if not line.startswith("#")}


def total(values, name):
    return sum(v for key, v in values.items() if re.match(name + r"(\{|$)", key))


def part(values, name):
    return next(v for key, v in values.items()
                if key.startswith("packrat_engine_step_seconds_total") and f'part="{name}"' in key)


def row(benchmark, figure, unit, limit=None, note=""):
    share = f"{limit:.4g}\t{100 * figure / limit:.1f} %" if limit else "-\t-"
    print(f"{benchmark}\t{figure:.4g}\t{unit}\t{share}\t{note}", flush=True)


def start(server, model, *flags):
    process = subprocess.Popen([server, f"--model={model}", f"--listen={GRPC}",
                                f"--http_listen={HTTP}", *flags], stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://{HTTP}/readyz", timeout=1)
            return process
        except OSError:
            time.sleep(0.1)
    sys.exit("the server does not become ready")


def bench(client, streams, requests, prompt, tokens):
    begin = time.monotonic()
    out = subprocess.run(
        [client, "bench", f"--address={GRPC}", f"--concurrency={streams}", f"--requests={requests}",
         f"--prompt_tokens={prompt}", f"--max_tokens={tokens}", "--ignore_eos=true", "--json"],
        check=True, capture_output=True, text=True).stdout
    return json.loads(out), time.monotonic() - begin


def batch16(server, client, model):
    process = start(server, model, "--max_running=16")
    try:
        bench(client, 16, 16, 32, 16)  # Warm.
        before = metrics()
        _, seconds = bench(client, 16, 16, 32, 192)
        after = metrics()
    finally:
        process.terminate()
        process.wait()
    steps = {name: part(after, name) - part(before, name) for name in ("model", "sample", "host")}
    tokens = total(after, "packrat_generated_tokens_total") - \
        total(before, "packrat_generated_tokens_total")
    whole = sum(steps.values())
    row("batch 16 through gRPC: sampling", 100 * steps["sample"] / whole, "% of a step")
    row("batch 16 through gRPC: scheduling and publishing", 100 * steps["host"] / whole,
        "% of a step", note="target for both together: under 5 %")
    row("batch 16 through gRPC", tokens / seconds, "tokens/s", tokens / steps["model"],
        "limit: tokens over the time inside the model; prompts and the client's start included")


def streams200(server, client, model):
    process = start(server, model)
    try:
        idle = metrics()
        result, seconds = bench(client, 200, 200, 32, 32)
        after = metrics()
        time.sleep(1)
        rest = metrics()
    finally:
        process.terminate()
        process.wait()
    resident = total(rest, "packrat_process_resident_memory_bytes")
    counted = sum(total(rest, f"packrat_{name}_bytes")
                  for name in ("weight", "state_capacity", "scratch"))
    row("200 streams: tokens per second", 200 * 32 / seconds, "tokens/s", note=json.dumps(result))
    row("200 streams: resident memory before", total(idle, "packrat_process_resident_memory_bytes")
        / 2**20, "MiB")
    row("200 streams: resident memory after", resident / 2**20, "MiB", counted / 2**20,
        "limit: weights + state pool + scratch, as exported")
    row("200 streams: state still in use", total(rest, "packrat_state_used_bytes"), "bytes")
    row("200 streams: finished by length",
        sum(v for k, v in after.items() if 'reason="length"' in k), "streams")


def against_engine(server, client, engine_bench, model, streams, prompt=16, tokens=64):
    bare = subprocess.run(
        [engine_bench, f"--model={model}", f"--streams={streams}", f"--prompt_tokens={prompt}",
         f"--max_tokens={tokens}"], check=True, capture_output=True, text=True).stdout
    print(bare, end="", flush=True)
    process = start(server, model, f"--max_running={streams}", f"--max_context={prompt + tokens}",
                    f"--max_batch_tokens={max(512, streams)}")
    try:
        rates = [bench(client, streams, streams, prompt, tokens)[0]["output_tokens_per_second"]
                 for _ in range(4)]
    finally:
        process.terminate()
        process.wait()
    row(f"{streams} streams through gRPC", statistics.median(rates[1:]), "tokens/s",
        float(bare.split("\t")[1]), "limit: the bare engine; the client runs on the same cores")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("server", "client", "engine_bench", "small_model"):
        parser.add_argument(name)
    parser.add_argument("--model", help="folder of the larger model; without it, only the "
                        "comparison with the bare engine is made")
    args = parser.parse_args()
    if args.model:
        batch16(args.server, args.client, args.model)
        streams200(args.server, args.client, args.model)
    for streams in (256, 1000):
        against_engine(args.server, args.client, args.engine_bench, args.small_model, streams)


if __name__ == "__main__":
    main()
