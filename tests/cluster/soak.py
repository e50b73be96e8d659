"""Mixed traffic against three replicas behind Envoy, for minutes: good, slow, vanished and hostile clients,
and replicas that are killed, stopped, frozen and started again. At the end nothing may have leaked, and every
call must be accounted for: the client's count against the replicas' logs and metrics. `./dev soak` runs it.

    ./dev soak [--minutes=10]
"""

import argparse
import collections
import os
import random
import sys
import tempfile
import threading
import time

from tests.cluster import fronts, traffic
from tests.cluster.replicas import Cluster, wait_until

# Ends streams that nobody reads soon enough for a short run; slow readers stay far below.
FLAGS = ["--stream_idle_timeout=5s", "--max_running=16", "--max_queue=64"]
# The log's last lines of a replica that is killed may be lost, and a client learns of the end before them.
LOST_LINES = 1.0
# How a call may end whose replica was killed: Envoy ends a broken stream with INTERNAL, and in seconds.
KILLED, SECONDS = ("UNAVAILABLE", "INTERNAL"), 5.0


class Usage:
    """What a process has."""

    def __init__(self, pid):
        with open("/proc/%d/status" % pid, encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file)
        self.mib = int(fields["VmRSS"].split()[0]) / 1024
        self.threads = int(fields["Threads"])
        self.fds = len(os.listdir("/proc/%d/fd" % pid))


class Watch(threading.Thread):
    """Samples one process every second until stop()."""

    def __init__(self, pid):
        super().__init__()
        self.samples = []
        self._pid, self._over = pid, threading.Event()
        self.start()

    def run(self):
        while not self._over.wait(1):
            self.samples.append(Usage(self._pid))

    def stop(self):
        self._over.set()
        self.join()

    def growth(self):
        """MiB: the median of the last quarter less that of the second one."""
        quarter = len(self.samples) // 4

        def median(samples):
            return sorted(sample.mib for sample in samples)[len(samples) // 2]
        return median(self.samples[-quarter:]) - median(self.samples[quarter:2 * quarter])


def chaos(cluster, front, minutes, say):
    """Harms b and c in turn; a only stands still now and then, so that it has one life, from begin to end.
    Returns when each was killed: [(name, time)]."""
    rng, kills, over = random.Random(1), [], time.monotonic() + 60 * minutes
    turn = 0
    while time.monotonic() < over:
        time.sleep(rng.uniform(4, 8))
        victim, what = cluster[1 + turn % 2], ("kill", "stop", "freeze")[turn // 2 % 3]
        if turn % 7 == 6:
            victim, what = cluster[0], "freeze"
        turn += 1
        say("%s %s" % (what, victim.name))
        if what == "kill":
            kills.append((victim.name, time.monotonic()))
            victim.kill()
            victim.start()
        elif what == "stop":
            code = victim.stop()
            assert code == 0, "exit code %d of %s" % (code, victim.name)
            victim.start()
        else:
            victim.freeze()
            time.sleep(3)
            victim.thaw()
        wait_until(lambda: front.healthy() == len(cluster), "all are ready again")
    return kills


def explained(one, kills):
    """Whether a call ended as its kind does, or as one that was refused or whose replica was killed. Nothing
    else that befalls replicas may be seen."""
    if one.status in one.expected or one.status == "RESOURCE_EXHAUSTED":
        return True
    return one.status in KILLED and any(one.begun <= at + 1 and at <= one.ended <= at + SECONDS
                                        for _, at in kills)


def account(cluster, outcomes, kills):
    """What cannot be explained, in words."""
    lines = collections.defaultdict(list)
    for replica in cluster:
        for line in replica.calls():
            lines[line["id"]].append(line)
    wrong = ["a call that nobody made: %s" % line for line in lines if not line.startswith("soak-")]
    for one in outcomes:
        if not explained(one, kills):
            wrong.append("%s %s ended with %s (%s)" % (one.kind, one.id, one.status, one.details))
        if one.status != "OK":
            continue
        # Exactly one line of an OK call, with as many tokens as the client got.
        found = [line for line in lines[one.id] if line["status"] == "OK"]
        if [line["generated_tokens"] for line in found] != [one.tokens]:
            if found or not any(abs(at - one.ended) < LOST_LINES for _, at in kills):
                wrong.append("%s %s: %d tokens, in the logs %s" % (one.kind, one.id, one.tokens, found))
    return wrong


def metrics_against_log(replica):
    """A replica that had one life counted in its metrics what stands in its log."""
    logged = collections.Counter(line["status"] for line in replica.calls())
    wrong = []
    for name, value in replica.metrics().items():
        if name.startswith("packrat_calls_total") and 'call="Generate"' in name:
            status = name.split('status="')[1].split('"')[0]
            if value != logged[status]:
                wrong.append("%s: metric %d, log %d lines of %s" % (replica.name, value, logged[status],
                                                                  status))
    return wrong


def leaks(replica, before, after):
    """Of a replica at rest; `before` was at rest as well, after a first round of all traffic."""
    metrics, wrong = replica.metrics(), []
    for name in ("packrat_requests_running", "packrat_requests_waiting", "packrat_state_used_bytes",
                 "packrat_streams_open", "packrat_state_utilization_ratio"):
        found = {key: value for key, value in metrics.items() if key.startswith(name)}
        assert found, "no metric " + name
        wrong += ["%s: %s is %s" % (replica.name, key, value) for key, value in found.items() if value]
    # Connections of Envoy come and go; gRPC keeps a few threads more or less.
    wrong += ["%s: %d threads, then %d" % (replica.name, before.threads, after.threads)
              ] * (after.threads > before.threads + 8)
    wrong += ["%s: %d file descriptors, then %d" % (replica.name, before.fds, after.fds)
              ] * (after.fds > before.fds + 8)
    return wrong


def soak(folder, minutes, say):
    """Prints the tables; returns what is wrong, in words."""
    keys = os.path.join(folder, "keys")
    with open(keys, "w", encoding="utf-8") as file:
        file.write(traffic.KEYS)
    with Cluster(folder, flags=FLAGS + ["--api_keys=" + keys]) as cluster, fronts.Envoy(folder, cluster) as front:
        # Everything once, before anything is measured.
        warm = traffic.Traffic(front)
        time.sleep(min(20, 15 * minutes))
        outcomes = warm.stop()
        cluster.wait_until_idle()
        before = {replica.name: Usage(replica.process.pid) for replica in cluster}
        watch = Watch(cluster[0].process.pid)
        running = traffic.Traffic(front, first=100)
        try:
            kills = chaos(cluster, front, minutes, say)
        finally:
            more = running.stop()
            watch.stop()
        outcomes += more
        cluster.wait_until_idle()
        wait_until(lambda: not any(r.metric("packrat_streams_open") for r in cluster), "no stream is open")
        time.sleep(1)  # The log's last lines.
        after = {replica.name: Usage(replica.process.pid) for replica in cluster}

        wrong = account(cluster, outcomes, kills) + metrics_against_log(cluster[0])
        for replica in cluster:
            wrong += leaks(replica, before[replica.name], after[replica.name])
        growth = watch.growth()
        # A hundredth of what the process has is noise of the allocator.
        wrong += ["%s grew by %.1f MiB" % (cluster[0].name, growth)] * (growth > 8)
        wrong += ["exit code %d of %s" % (code, replica.name)
                  for replica in cluster for code in (replica.stop(),) if code]
    report(outcomes, before, after, growth)
    return wrong


def report(outcomes, before, after, growth):
    print("kind\tcalls\tended as\tseconds of those with OK: median, 99th percentile")
    for kind in sorted({one.kind for one in outcomes}):
        mine = [one for one in outcomes if one.kind == kind]
        ended = collections.Counter(one.status for one in mine)
        times = sorted(one.ended - one.begun for one in mine if one.status == "OK")
        print("%s\t%d\t%s\t%s" % (
            kind, len(mine), ", ".join("%d %s" % (n, status) for status, n in ended.most_common()),
            "%.2f, %.2f" % (times[len(times) // 2], times[len(times) * 99 // 100]) if times else "-"))
    print("replica\tMiB\tthreads\tfile descriptors")
    for name, was in before.items():
        now = after[name]
        print("%s\t%.0f, then %.0f\t%d, then %d\t%d, then %d"
              % (name, was.mib, now.mib, was.threads, now.threads, was.fds, now.fds))
    print("memory of a, last quarter less the second\t%.1f MiB" % growth)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    if not 0 < arguments.minutes <= 10000:
        parser.error("--minutes is %g; range (0, 10000]" % arguments.minutes)
    begun = time.monotonic()
    folder = tempfile.mkdtemp(prefix="packrat-soak-")
    wrong = soak(folder, arguments.minutes,
                 lambda text: print("%4.0f s: %s" % (time.monotonic() - begun, text), file=sys.stderr))
    for text in wrong:
        print("WRONG: " + text)
    print("the logs are in " + folder, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
