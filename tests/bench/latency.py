#!/usr/bin/env python3
"""Time to the first token against time between tokens, by flags of the server and by how calls arrive.

  ./dev bench --latency --model=DIR --packrat_flags=--inter_token_time=50ms --packrat_flags=...

All servers are up at once and measured in turn, those that wait for theirs are stopped (SIGSTOP). A row
is a median of rounds. Prompts are random ids, decoding is greedy and nothing ends early. `at once`: so
many callers, prompts of 128 tokens, 128 generated. `steady`: calls arrive at random, prompts of 32 to
1,024 tokens, 64 generated.
"""

import argparse
import itertools
import os
import signal
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # pylint: disable=wrong-import-position

# Of `packrat bench`: what comes back, and under which name it is shown.
TIMES = (("first token", "time_to_first_token_ms"), ("between tokens", "message_interval_ms"),
         ("a call's tokens", "time_per_output_token_ms"))


def at_once(callers):
    return (f"--concurrency={callers}", f"--requests={callers}", "--prompt_tokens=128",
            "--max_tokens=128")


def steady(rate, requests):
    return ("--concurrency=1000", f"--rate={rate}", f"--requests={requests}", "--prompt_tokens=32",
            "--max_prompt_tokens=1024", "--max_tokens=64")


def measure(servers, patterns, rounds):
    """[pattern][server] is a list of what `packrat bench` tells, an entry a round."""
    told = {name: {server.name: [] for server in servers} for name in patterns}
    for number, (name, flags), server in itertools.product(range(rounds), patterns.items(), servers):
        server.signal(signal.SIGCONT)
        result = server.bench(*flags)
        server.signal(signal.SIGSTOP)
        told[name][server.name].append(result)
        print(f"# round {number + 1}, {name}, {server.name}: {result}", file=sys.stderr, flush=True)
    return told


def report(told):
    print(peers.HEADER)
    for pattern, by_server in told.items():
        for server, results in by_server.items():
            def median(*path):
                values = results
                for key in path:
                    values = [value[key] for value in values]
                return statistics.median(values)

            times = "; ".join(f"{name} p50 {median(key, 'p50'):.0f} ms, p99 {median(key, 'p99'):.0f}"
                              for name, key in TIMES)
            print(f"latency: {pattern}, {server.removeprefix('packrat').strip() or 'defaults'}\t"
                  f"{median('output_tokens_per_second'):.1f}\ttokens/s\t-\t-\t{times}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="packrat_server")
    parser.add_argument("client", help="packrat")
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--callers", default="32,64", help="patterns `at once`")
    parser.add_argument("--rate", type=float, default=2, help="calls a second of `steady`; 0: not")
    parser.add_argument("--requests", type=int, default=60, help="calls of `steady`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packrat_flags", action="append",
                        help="further flags for a server, any number of times")
    parser.add_argument("--dir", default="/var/tmp/packrat-latency", help="of the servers' logs")
    parser.add_argument("--port", type=int, default=8990, help="the first of those used")
    args = parser.parse_args()
    args.dir = os.path.abspath(args.dir)
    os.makedirs(args.dir, exist_ok=True)
    peers.CONTEXT = 2048
    patterns = {f"{n} at once": at_once(int(n)) for n in args.callers.split(",") if n}
    if args.rate:
        patterns[f"{args.rate:g} calls/s of mixed prompts"] = steady(args.rate, args.requests)
    servers = []
    # What is stopped here does not end by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    try:
        for number, flags in enumerate(args.packrat_flags or [""]):
            servers.append(peers.Packrat(args, flags, args.port + 2 * number,
                                         os.path.join(args.dir, f"packrat{number}.log")))
            servers[-1].bench("--concurrency=4", "--requests=4", "--max_tokens=8")  # Warm.
            servers[-1].signal(signal.SIGSTOP)
        report(measure(servers, patterns, args.rounds))
    finally:
        for server in servers:
            server.end()


if __name__ == "__main__":
    main()
