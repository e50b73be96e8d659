"""Three real replicas behind Envoy, HAProxy and gRPC's own balancing, under load: a table of what each
loses when. `./dev cluster` runs it; docs/balancing.md has the result.

    ./dev cluster [--only=SCENARIO,...] [--fronts=envoy,haproxy,client] [--calls=3000]
"""

import argparse
import sys
import tempfile

from tests.cluster import fronts, scenarios
from tests.cluster.replicas import Cluster

FRONTS = {"envoy": fronts.Envoy, "haproxy": fronts.HAProxy, "client": fronts.ClientSide}


def full(folder, make):
    with Cluster(folder, flags=["--max_running=1", "--max_queue=1"]) as cluster:
        with make(folder, cluster) as front:
            # HAProxy does not read gRPC's statuses: there the client tries again.
            return scenarios.full(cluster, front, 10 if make is fronts.HAProxy else 1)


def run(make, only, calls):
    """The rows of one front."""
    def in_cluster(scenario, *arguments):
        with tempfile.TemporaryDirectory() as folder, Cluster(folder) as cluster:
            with make(folder, cluster) as front:
                return scenario(cluster, front, *arguments)
    cases = {
        "spread": lambda: in_cluster(scenarios.spread),
        "kill": lambda: in_cluster(scenarios.kill),
        "roll": lambda: in_cluster(scenarios.roll, calls),
        "freeze": lambda: in_cluster(scenarios.freeze),
        "long_freeze": lambda: in_cluster(scenarios.freeze, 20),
        "sessions": lambda: in_cluster(scenarios.sessions),
        "full": lambda: full(tempfile.mkdtemp(), make),
    }
    if make is fronts.ClientSide:
        del cases["sessions"]  # gRPC's own balancing has none.
    for name, case in cases.items():
        if not only or name in only:
            yield case()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="", help="spread, kill, roll, freeze, long_freeze, sessions, full")
    parser.add_argument("--fronts", default="envoy,haproxy,client")
    parser.add_argument("--calls", type=int, default=3000, help="at least so many while rolling")
    arguments = parser.parse_args()
    only = [name for name in arguments.only.split(",") if name]
    wrong = 0
    print(scenarios.Row.HEAD, flush=True)
    for name in arguments.fronts.split(","):
        for row in run(FRONTS[name], only, arguments.calls):
            print(row, flush=True)
            wrong += bool(row.wrong)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
