"""Three real replicas behind Envoy, HAProxy and gRPC's own balancing, under load: a table of what each
loses when. `./dev cluster` runs it; docs/balancing.md has the result.

    ./dev cluster [--only=SCENARIO,...] [--fronts=envoy,haproxy,client,layer4] [--calls=3000]
"""

import argparse
import sys
import tempfile

from tests.cluster import fronts, scenarios
from tests.cluster.replicas import Cluster

FRONTS = {"envoy": fronts.Envoy, "haproxy": fronts.HAProxy, "client": fronts.ClientSide,
          "layer4": fronts.Layer4}
AGE = 5


def scenarios_of(make, calls):
    """{name: (scenario with a cluster and a front, what the cluster is like)}"""
    if make is fronts.Layer4:
        return {"late": (lambda *on: scenarios.late(*on, AGE),
                         {"flags": ["--max_connection_age=%ds" % AGE], "started": 2}),
                "roll": (lambda cluster, front: scenarios.roll(cluster, [front], calls)[0], {})}
    # HAProxy does not read gRPC's statuses: where one replica has room the client tries again.
    tries = 10 if make is fronts.HAProxy else 1
    found = {
        "spread": (scenarios.spread, {}),
        "kill": (scenarios.kill, {}),
        "roll": (lambda cluster, front: scenarios.roll(cluster, [front], calls)[0], {}),
        "freeze": (scenarios.freeze, {}),
        "long_freeze": (lambda *on: scenarios.freeze(*on, 20), {}),
        "full": (lambda *on: scenarios.full(*on, tries), {"flags": ["--max_running=1", "--max_queue=1"]}),
        "aging": (scenarios.aging, {"flags": ["--max_connection_age=1s"]}),
        "sessions": (scenarios.sessions, {}),
    }
    if make is fronts.ClientSide:
        del found["sessions"]  # gRPC's own balancing has none.
    return found


def run(make, only, calls):
    """The rows of one front."""
    for name, (scenario, cluster_of) in scenarios_of(make, calls).items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder, Cluster(folder, **cluster_of) as cluster:
            with make(folder, cluster) as front:
                yield scenario(cluster, front)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="",
                        help="spread, kill, roll, freeze, long_freeze, full, aging, sessions, late")
    parser.add_argument("--fronts", default=",".join(FRONTS))
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
