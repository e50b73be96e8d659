#!/usr/bin/env python3
"""Server-sent events over HTTP against gRPC: tokens per second, processor time and memory of a stream,
and how soon a token is with its client.

Two models: the given one, and one of one small layer, which costs nearly nothing, so that the fronts
show. Both fronts are measured in turn; rows are medians of rounds, and so are ratios, of what was
measured in one round. The client is tests/bench/stream_client.cc, on the same cores.

Processor time is that of the server's threads, as the system tells it: of the front's alone, those that
do not compute, a token. Prints rows like tests/bench/bench.
"""

import argparse
import contextlib
import glob
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

import process_stats  # Beside this file.

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models/demo")
GRPC, HTTP = 50961, 8961
SHOWN = {"grpc": "gRPC on one connection", "grpc-each": "gRPC on a connection each"}
PATHS = {"completions": "/v1/completions", "packrat": "/packrat/v1/Generate"}


def row(benchmark, figure, unit, limit=None, note=""):
    share = f"{limit:.4g}\t{100 * figure / limit:.1f} %" if limit else "-\t-"
    print(f"{benchmark}\t{figure:.4g}\t{unit}\t{share}\t{note}", flush=True)


class Server:
    def __init__(self, program, model, *flags, tls=None):
        self.context = None
        if tls:
            import ssl  # pylint: disable=import-outside-toplevel
            self.context = ssl._create_unverified_context()  # pylint: disable=protected-access
            flags = (*flags, f"--tls_certificate={tls}/cert.pem", f"--tls_key={tls}/key.pem")
        self.process = subprocess.Popen(
            [program, f"--model={model}", f"--listen=127.0.0.1:{GRPC}",
             f"--http_listen=127.0.0.1:{HTTP}", *flags], stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                self.get("/readyz")
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        self.end()
        sys.exit("the server does not become ready")

    def get(self, path):
        scheme = "https" if self.context else "http"
        with urllib.request.urlopen(f"{scheme}://127.0.0.1:{HTTP}{path}", timeout=10,
                                    context=self.context) as reply:
            return reply.read().decode()

    def metric(self, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.get("/metrics").splitlines()
                   if re.match(name + r"[ {]", line))

    def histogram(self, name):
        """By the upper bound of the bucket, as it is written, "+Inf" and "sum"."""
        lines = [line.rsplit(" ", 1) for line in self.get("/metrics").splitlines() if line.startswith(name)]
        counts = {re.search('le="([^"]*)"', line)[1]: float(value) for line, value in lines if "_bucket" in line}
        return {**counts, "sum": sum(float(value) for line, value in lines if "_sum" in line)}

    def front_seconds(self):
        """Of all threads but the engine's and those that compute with it, by their names."""
        total = 0
        for folder in glob.glob(f"/proc/{self.process.pid}/task/*"):
            with contextlib.suppress(OSError):
                with open(f"{folder}/comm", encoding="ascii") as file:
                    name = file.read().strip()
                with open(f"{folder}/schedstat", encoding="ascii") as file:
                    seconds = int(file.read().split()[0]) / 1e9
                if name not in ("packrat-engine", "packrat-compute"):
                    total += seconds
        return total

    def end(self):
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def serving(*args, **kwargs):
    server = Server(*args, **kwargs)
    try:
        yield server
    finally:
        server.end()


def client_flags(front, streams=1):
    flags = [f"--seed={random.randrange(2**31)}"]
    if front.startswith("grpc"):
        channels = streams if front == "grpc-each" else 1
        return [*flags, "--front=grpc", f"--port={GRPC}", f"--channels={channels}"]
    return [*flags, f"--port={HTTP}", f"--path={PATHS[front]}"]


def run(client, front, *flags, streams=1):
    out = subprocess.run([client, *client_flags(front, streams), *flags], check=True, capture_output=True,
                         text=True).stdout
    return json.loads(out)


def throughput(server, client, front, streams, tokens):
    front_before, cpu_before = server.front_seconds(), process_stats.cpu_seconds(server.process.pid)
    told = run(client, front, f"--streams={streams}", f"--max_tokens={tokens}", streams=streams)
    made = streams * tokens
    return {"tokens_per_second": made / told["seconds"],
            "front_us": 1e6 * (server.front_seconds() - front_before) / made,
            "server_us": 1e6 * (process_stats.cpu_seconds(server.process.pid) - cpu_before) / made,
            "client_us": 1e6 * told["cpu_seconds"] / made,
            "tokens_per_message": made / told["messages"]}


def compare(name, server, client, streams, tokens, rounds):
    fronts = {front: [] for front in (*SHOWN, *PATHS)}
    for front in fronts:
        throughput(server, client, front, streams, tokens)  # Warm.
    for _ in range(rounds):
        for front, results in fronts.items():
            results.append(throughput(server, client, front, streams, tokens))

    def median(front, key):
        return statistics.median(result[key] for result in fronts[front])

    for front in fronts:
        ratio = statistics.median(mine["tokens_per_second"] / other["tokens_per_second"]
                                  for mine, other in zip(fronts[front], fronts["grpc"]))
        shown = SHOWN.get(front) or f"events of {PATHS[front]}"
        figure = median(front, "tokens_per_second")
        row(f"{name}, {streams} streams: {shown}", figure, "tokens/s", figure / ratio,
            f"limit: gRPC on one connection, in the same rounds; a token: {median(front, 'front_us'):.1f} us of the "
            f"front, {median(front, 'server_us'):.0f} us of the server, "
            f"{median(front, 'client_us'):.1f} us of the client; "
            f"{median(front, 'tokens_per_message'):.2f} tokens a message")


def deliveries(name, server, client, streams, tokens):
    """From a token to when the system has its message: by the server's histogram, of all of them."""
    for front in ("grpc", "completions"):
        before = server.histogram("packrat_delivery_seconds")
        run(client, front, f"--streams={streams}", f"--max_tokens={tokens}", streams=streams)
        counts = server.histogram("packrat_delivery_seconds")
        new = {bound: count - before[bound] for bound, count in counts.items()}
        within = 100 * new["0.001"] / new["+Inf"]
        row(f"{name}, {streams} streams: {SHOWN.get(front, 'events')}, from a token to the system's hands",
            1000 * new["sum"] / new["+Inf"], "ms", note=f"mean of {new['+Inf']:.0f}; {within:.2f} % within 1 ms, "
            f"{100 * new['0.01'] / new['+Inf']:.2f} % within 10 ms")


def first_tokens(name, client, calls):
    for front in ("grpc", "packrat"):
        told = run(client, front, f"--first={calls}")
        shown = "gRPC" if front == "grpc" else "events"
        row(f"{name}: {shown}, from the token to its client", told["p50"], "ms",
            note=f"p50; p99 {told['p99']:.3f} ms, longest {told['max']:.3f}; the request's way to "
                 f"the engine is in it")


@contextlib.contextmanager
def held(client, front, how, *flags):
    process = subprocess.Popen([client, *client_flags(front), f"--hold={how}", *flags],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline() != "open\n":
            sys.exit("the streams do not open")
        yield
    finally:
        process.stdin.close()
        process.wait()


def state_and_open(server):
    return server.metric("packrat_state_used_bytes"), server.metric("packrat_streams_open")


def memory(program, client, models, streams, tls):
    kind = "over TLS" if tls else "plain"
    flags = ("--max_context=4096", f"--max_queue={2 * streams}", f"--max_streams={2 * streams}")
    # Those that others wait for must not end meanwhile, and those that run leave little else.
    for (how, running), model in zip((("wait", 16), ("run", streams)), models):
        with serving(program, model, *flags, f"--max_running={running}",
                     f"--max_batch_tokens={max(512, running)}", tls=tls) as server:
            tokens = ["--max_tokens=4000", *(["--tls"] if tls else [])]
            with contextlib.ExitStack() as stack:
                if how == "wait":
                    stack.enter_context(held(client, "completions", "tokens", "--streams=16",
                                             *tokens))
                else:
                    run(client, "completions", "--streams=16", *tokens, "--max_tokens=16")
                used, open_before = state_and_open(server)
                before = process_stats.resident_bytes(server.process.pid)
                stack.enter_context(held(client, "completions",
                                         "asked" if how == "wait" else "tokens",
                                         f"--streams={streams}", *tokens))
                while how == "wait" and state_and_open(server)[1] < open_before + streams:
                    time.sleep(0.05)
                grown = process_stats.resident_bytes(server.process.pid) - before
                state = max(0, state_and_open(server)[0] - used)
            row(f"{streams} streams that {how}, {kind}", grown / streams / 1024, "KB each",
                note=f"resident memory of the server; {state / streams / 1024:.1f} KB of it is state "
                     f"of the model at most")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="packrat_server")
    parser.add_argument("client", help="stream_client")
    parser.add_argument("--model", default=DEMO, help="folder of the model")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", type=int, default=2000, help="streams whose memory is measured")
    parser.add_argument("--only", default="speed,first,memory", help="some of these")
    parser.add_argument("--dir", default="/var/tmp/packrat-streams", help="of what is made")
    args = parser.parse_args()
    # What was started here does not end by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    only = args.only.split(",")
    small = os.path.join(args.dir, "small")
    os.makedirs(small, exist_ok=True)
    subprocess.run([args.client, f"--make_model={small}"], check=True)
    for file in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(os.path.join(DEMO, file), small)
    if not os.path.exists(os.path.join(args.dir, "cert.pem")):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650", "-subj",
                        "/CN=localhost", "-keyout", f"{args.dir}/key.pem", "-out",
                        f"{args.dir}/cert.pem"], check=True, stderr=subprocess.DEVNULL)
    flags = (f"--max_running={args.streams}", "--max_context=512")
    print("benchmark\tmedian\tunit\tlimit\tshare\tnote")
    for name, model, tokens in (("model", args.model, args.tokens), ("small model", small, 256)):
        if {"speed", "first"} & set(only):
            with serving(args.server, model, *flags) as server:
                if "speed" in only:
                    compare(name, server, args.client, args.streams, tokens, args.rounds)
                if "first" in only and model == small:
                    first_tokens("alone", args.client, 500)
        if "first" in only and model == args.model:
            with serving(args.server, model, *flags) as server:
                for streams in (1, 64, args.streams):
                    deliveries(name, server, args.client, streams, 64)
    if "memory" in only:
        for tls in (None, args.dir):
            memory(args.server, args.client, (args.model, small), args.open, tls)


if __name__ == "__main__":
    main()
