#!/usr/bin/env python3
"""Which HTTP library: open streams of server-sent events by each, over one loop of one thread.

Builds the servers of http_libraries/ (Debian's packages libevent-dev, libh2o-evloop-dev and libh2o-dev
besides those of ./dev deps) and reads them with stream_client, on the same cores. The floor writes to its sockets and knows no HTTP.
Two speeds: as fast as the loop goes, and a step of a model each 100 ms. Prints rows like
tests/bench/bench: medians of rounds in which all take their turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import process_stats  # Beside this file.

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "http_libraries")
LIBRARIES = {
    "sockets": ("the floor, no library", []),
    "beast": ("Boost.Beast", []),
    "libevent": ("libevent's evhttp", ["-levent"]),
    "h2o": ("libh2o", ["-DH2O_USE_LIBUV=0", "-DH2O_USE_EPOLL=1", "-lh2o-evloop", "-lssl", "-lcrypto"]),
}
PORT = 8973


class Server:
    def __init__(self, program, pace_us):
        self.process = subprocess.Popen([program, str(PORT), str(pace_us)])
        time.sleep(0.3)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def measured(program, client, streams, tokens):
    flags = [client, f"--port={PORT}", f"--streams={streams}", f"--max_tokens={tokens}"]
    with Server(program, 0) as server:
        told = json.loads(subprocess.run(flags, check=True, capture_output=True, text=True).stdout)
        result = {"rate": told["messages"] / told["seconds"],
                  "us": 1e6 * process_stats.cpu_seconds(server.process.pid) / told["messages"]}
        assert told["messages"] == streams * tokens, told
    with Server(program, 100_000) as server:
        before = process_stats.resident_bytes(server.process.pid)
        held = subprocess.Popen([*flags, "--hold=tokens", "--max_tokens=100000"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
        held.stdout.readline()
        cpu = process_stats.cpu_seconds(server.process.pid)
        time.sleep(5)
        result["paced_us"] = 1e6 * (process_stats.cpu_seconds(server.process.pid) - cpu) / (50 * streams)
        result["kb"] = (process_stats.resident_bytes(server.process.pid) - before) / streams / 1024
        held.kill()
        held.wait()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", help="stream_client")
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=64, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, (_, libraries) in LIBRARIES.items():
            subprocess.run(["g++", "-O2", "-std=c++17", f"{SOURCES}/with_{name}.cc", "-o", f"{folder}/{name}",
                            *libraries, "-lpthread"], check=True)
        rounds = [{name: measured(f"{folder}/{name}", args.client, args.streams, args.tokens) for name in LIBRARIES}
                  for _ in range(args.rounds)]
    print("benchmark\tmedian\tunit\tlimit\tshare\tnote")
    for name, (shown, _) in LIBRARIES.items():
        got = {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
        floor = got["rate"] / statistics.median(one[name]["rate"] / one["sockets"]["rate"] for one in rounds)
        print(f"{args.streams} streams: {shown}\t{got['rate']:.4g}\tevents/s\t{floor:.4g}"
              f"\t{100 * got['rate'] / floor:.1f} %\tlimit: the floor in the same rounds; an event: {got['us']:.1f} us of "
              f"the server's processor, {got['paced_us']:.1f} us at ten steps a second; {got['kb']:.1f} KB resident a stream",
              flush=True)


if __name__ == "__main__":
    main()
