#!/usr/bin/env python3
"""What flags of the server cost or gain in speed: servers of one model with other flags each, in turn.

  ./dev bench --speed --model=DIR [--callers=8 --requests=64 --prompt=64 --tokens=16] -- FLAGS FLAGS...

FLAGS: those of one server, "" for none. Give the same twice to see how far apart one server's rounds are.
All are up at once; a round measures each once, in an order of its own. The note has the median of the ratios
to the first one's time in the same round, above 1 where it is faster, and the quartiles. Prompts are random ids
that share nothing, decoding is greedy.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers  # pylint: disable=wrong-import-position


def measure(servers, args):
    """Seconds: [server][round]."""
    def seconds(server):
        return server.bench(f"--concurrency={args.callers}", f"--requests={args.requests}",
                            f"--prompt_tokens={args.prompt}", f"--max_tokens={args.tokens}")["seconds"]

    for server in servers:
        seconds(server)  # Warms.
    took = [[] for _ in servers]
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        for i in random.sample(range(len(servers)), len(servers)):
            took[i].append(seconds(servers[i]))
    return took


def quartiles(values):
    return statistics.quantiles(values, n=4) if len(values) > 1 else 3 * values


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="packrat_server")
    parser.add_argument("client", help="packrat")
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64, help="of a round")
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--tokens", type=int, default=16, help="that each request generates")
    parser.add_argument("--seconds", type=float, default=120, help="how long to measure")
    parser.add_argument("--port", type=int, default=8940, help="the first of those used")
    parser.add_argument("flags", nargs="+", help="of each server")
    args = parser.parse_args()
    args.model = os.path.abspath(args.model)
    with tempfile.TemporaryDirectory() as folder:
        servers = []
        try:
            for i, flags in enumerate(args.flags):
                servers.append(peers.Packrat(args, flags, args.port + 2 * i, f"{folder}/{i}.log"))
            took = measure(servers, args)
        finally:
            for server in servers:
                server.end()
    print(peers.HEADER)
    for flags, mine in zip(args.flags, took):
        ratios = quartiles([first / own for first, own in zip(took[0], mine)])
        rate = args.requests * args.tokens / statistics.median(mine)
        print(f"speed: {flags or 'no flags'}\t{rate:.1f}\ttokens/s\t\t\t{ratios[1]:.3f} of the first one's speed, quartiles "
              f"{ratios[0]:.3f} and {ratios[2]:.3f} of {len(mine)} rounds; {args.callers} callers, prompts of "
              f"{args.prompt}, {args.tokens} generated")


if __name__ == "__main__":
    main()
