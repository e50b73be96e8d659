"""What happens to replicas behind a balancer, and what becomes of the calls. Each scenario returns a Row;
`wrong` in it says what must not be, in words."""

import collections
import dataclasses
import time

import grpc

from packrat_client.proto import inference_pb2_grpc
from tests.cluster import load
from tests.cluster.replicas import wait_until


@dataclasses.dataclass
class Row:
    scenario: str
    front: str
    calls: int
    at_once: int
    retried: int    # OK after another try of the client.
    lost: int
    note: str
    wrong: list

    HEAD = "scenario\tfront\tcalls\tok at once\tok when tried again\tlost\tnote"

    def __str__(self):
        return "\t".join(map(str, (self.scenario, self.front, self.calls, self.at_once, self.retried,
                                   self.lost, self.note + "".join("; WRONG: " + w for w in self.wrong))))


def row(scenario, front, calls, note="", wrong=()):
    at_once = sum(call.at_once() for call in calls)
    good = sum(call.ok() for call in calls)
    return Row(scenario, front.name, len(calls), at_once, good - at_once, len(calls) - good, note,
               list(wrong))


def replica_of(cluster, calls=()):
    """Which replica finished or refused which attempt: {id: (name, line of the log)}. Waits until the last
    attempts of `calls` are there: a client may know of the end before the log does."""
    where = {}

    def complete():
        for replica in cluster:
            where.update((line["id"], (replica.name, line)) for line in replica.calls())
        return all(call.attempts[-1].id in where for call in calls)
    wait_until(complete, "all calls stand in the logs")
    return where


def statuses(attempts):
    """How attempts ended, with the details, in words."""
    counts = collections.Counter("%s (%s)" % (a.status, a.details) for a in attempts)
    return ", ".join("%d %s" % (n, what) for what, n in counts.most_common())


def broken(calls):
    return [attempt for call in calls for attempt in call.broken()]


def shares(cluster, calls):
    """Calls of each replica."""
    where = replica_of(cluster, calls)
    counts = collections.Counter(where[a.id][0] for call in calls for a in call.attempts if a.id in where)
    return {replica.name: counts[replica.name] for replica in cluster}


def busy(cluster, calls):
    """Seconds that calls spent at each replica."""
    where = replica_of(cluster, calls)
    seconds = {replica.name: 0.0 for replica in cluster}
    for call in calls:
        for attempt in call.attempts:
            if attempt.id in where:
                seconds[where[attempt.id][0]] += attempt.ended - attempt.begun
    return seconds


def spread(cluster, front, count=300):
    """One client with one connection: each replica gets its share. That is of calls where they go in turn, and of
    time where they go to whoever has the fewest: a replica that the machine runs slower gets fewer then."""
    calls = load.Load(front, "spread-" + front.name[0], threads=8, channels=1, limit=count).wait()
    got = shares(cluster, calls)
    least = max(min(share.values()) / sum(share.values()) for share in (got, busy(cluster, calls)))
    wrong = ["uneven"] if least < 0.4 / len(got) else []
    wrong += ["lost"] if broken(calls) else []
    return row("spread over one connection", front, calls, "%s calls" % "/".join(map(str, got.values())),
               wrong)


def kill(cluster, front, seconds=2):
    """SIGKILL of b under load."""
    name = "kill-" + front.name[0]
    running = load.Load(front, name, tries=10)
    time.sleep(seconds)
    victim = cluster[1]
    had = int(victim.metric("packrat_requests_running"))
    victim.kill()
    time.sleep(seconds)
    victim.start()
    time.sleep(seconds)
    calls = running.stop()
    cluster.wait_until_idle()
    lost, where = broken(calls), replica_of(cluster)
    harmed = [where[a.id] for a in lost if a.id in where and where[a.id][0] != victim.name]
    wrong = ["%s had a part in it: %s" % where for where in harmed]
    wrong += ["no retryable status"] if not all(a.retryable for a in lost) else []
    wrong += ["a call failed for good"] if not all(call.ok() for call in calls) else []
    return row("SIGKILL of one of three", front, calls,
               "it had %d streams; broken: %s" % (had, statuses(lost) or "none"), wrong)


def roll(cluster, fronts, at_least=3000, pause=2.0, **flags):
    """SIGTERM and a new start of each replica in turn, with load through each of the fronts at once; nobody
    tries again but they, unless `flags` have tries=N. Returns a row for each."""
    running = [load.Load(front, "roll-" + front.name[0], **flags) for front in fronts]
    codes = []
    for replica in cluster:
        time.sleep(pause)
        codes.append(replica.stop())
        replica.start()
        for front in fronts:
            wait_until(lambda f=front: f.healthy() in (len(cluster), None), front.name + " finds it again")
    time.sleep(pause)
    wait_until(lambda: min(len(each.calls) for each in running) >= at_least, "%d calls" % at_least, 900)
    rows = []
    for front, each in zip(fronts, running):
        calls = each.stop()
        wrong = ["lost"] if not all(call.ok() for call in calls) else []
        wrong += ["exit codes %s" % codes] if any(codes) else []
        rows.append(row("SIGTERM of all three in turn", front, calls, statuses(broken(calls)), wrong))
    return rows


def freeze(cluster, front, seconds=5):
    """SIGSTOP of b under load, and SIGCONT."""
    running = load.Load(front, "freeze-%s-%d" % (front.name[0], seconds), tries=10)
    time.sleep(2)
    victim = cluster[1]
    victim.freeze()
    frozen = time.monotonic()
    time.sleep(seconds)
    out = front.healthy() in (2, None)
    victim.thaw()
    thawed = time.monotonic()
    wait_until(lambda: front.healthy() in (3, None), front.name + " finds it again")
    time.sleep(2)
    calls = running.stop()
    cluster.wait_until_idle()
    lost, where = broken(calls), replica_of(cluster)
    others = [a for call in calls for a in call.attempts if where.get(a.id, "?")[0] != victim.name]
    again = [a for call in calls for a in call.attempts
             if where.get(a.id, "?")[0] == victim.name and a.begun > thawed]
    wrong = [] if out else ["not taken out"]
    wrong += [] if again else ["gets no calls afterwards"]
    wrong += ["a stream of %s was harmed" % where[a.id][0]
              for a in lost if a.id in where and where[a.id][0] != victim.name]
    wrong += ["a call failed for good"] if not all(call.ok() for call in calls) else []
    begun = sum(frozen < a.begun < thawed for a in others)
    return row("SIGSTOP of one of three for %d s" % seconds, front, calls,
               "%d calls elsewhere meanwhile; broken: %s" % (begun, statuses(lost) or "none"), wrong)


def sessions(cluster, front, count=12, each=4):
    """Calls with x-session: one replica for each session, also after another replica was away."""
    calls, homes = [], collections.defaultdict(set)
    with front.channel() as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        for number in range(each):
            for session in range(count):
                calls.append(load.call(stub, "session-%s-%d-%d" % (front.name[0], session, number), 4,
                                       session="user-%d" % session))
    where = replica_of(cluster, calls)
    for call in calls:
        session = call.attempts[-1].id.split("-")[2]
        homes[session].add(where[call.attempts[-1].id][0])
    wrong = ["a session went to several"] if any(len(home) > 1 for home in homes.values()) else []
    used = set().union(*homes.values())
    wrong += ["all on one replica"] if len(used) == 1 else []
    return row("%d sessions by x-session" % count, front, calls,
               "over %d replicas, each on one" % len(used), wrong)


def late(cluster, front, age):
    """A third replica is there later: behind a balancer of connections it gets work as these reach their age
    (seconds; --max_connection_age of the replicas). Each thread is a client with one connection."""
    running = load.Load(front, "late-" + front.name[0], threads=12, channels=12)
    time.sleep(1)
    cluster[2].start()
    began = time.monotonic()
    time.sleep(1.5 * age)
    balanced = time.monotonic()
    time.sleep(3)
    calls = running.stop()
    where = replica_of(cluster, calls)
    mine = [a.begun for call in calls for a in call.attempts if where[a.id][0] == cluster[2].name]
    after = sum(a.begun > balanced for call in calls for a in call.attempts)
    share = sum(begun > balanced for begun in mine) / max(after, 1)
    wrong = ["lost"] if broken(calls) else []
    wrong += ["too few calls"] if share < 0.1 else []
    first = "%.1f s" % (min(mine) - began) if mine else "never"
    return row("a third replica later, connections live %d s" % age, front, calls,
               "its first call after %s, its share after %.1f s: %.0f %%; broken: %s"
               % (first, 1.5 * age, 100 * share, statuses(broken(calls)) or "none"), wrong)


def aging(cluster, front, seconds=10):
    """Replicas whose connections end all the time (--max_connection_age=1s): nobody may notice."""
    running = load.Load(front, "aging-" + front.name[0])
    time.sleep(seconds)
    calls = running.stop()
    return row("connections live 1 s", front, calls, statuses(broken(calls)),
               ["lost"] if broken(calls) else [])


class Full:
    """Fills replicas of one place and one seat in the queue, directly."""

    def __init__(self):
        self._held = {}

    def fill(self, replica):
        channel = grpc.insecure_channel(replica.address,
                                        options=(("grpc.use_local_subchannel_pool", 1),))
        stub = inference_pb2_grpc.InferenceStub(channel)
        running = stub.Generate(load.request_of(4000, 1))
        next(running)
        waiting = stub.Generate(load.request_of(4000, 2))
        wait_until(lambda: replica.metric("packrat_requests_waiting"), "one waits")
        self._held[replica.name] = (channel, running, waiting)

    def empty(self, replica):
        channel, *calls = self._held.pop(replica.name)
        for one in calls:
            one.cancel()
        channel.close()
        wait_until(replica.idle, "it is idle")


def full(cluster, front, tries):
    """Replicas of one place and one seat: two full, then all three. `tries` is how often the client itself
    may try where one replica is free: 1 where the front does it."""
    hold = Full()
    wrong, calls = [], []
    with front.channel() as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        name = "full-%s-" % front.name[0]
        for replica in (cluster[0], cluster[1]):
            hold.fill(replica)
        for number in range(12):
            calls.append(load.call(stub, name + str(number), 4, tries))
        wrong += [] if all(call.ok() for call in calls) else ["lost with one replica free"]
        # All anew: a stream that holds a place has 4,000 tokens, some ten seconds.
        hold.empty(cluster[0])
        hold.empty(cluster[1])
        for replica in cluster:
            hold.fill(replica)
        refused = load.call(stub, name + "refused", 4).attempts[0]
        wrong += [] if refused.status == "RESOURCE_EXHAUSTED" else ["all full: " + refused.status]
        pushback = int(refused.pushback or 0)
        wrong += [] if pushback else ["the pushback does not arrive"]
        late = load.Load(front, name + "late", threads=1, channels=1, tries=10, limit=1,
                         tokens=lambda _: 4)
        time.sleep(0.5)
        hold.empty(cluster[2])
        calls += late.wait()
        wrong += [] if calls[-1].ok() else ["lost after the pushback"]
        waited = calls[-1].attempts[-1].ended - calls[-1].attempts[0].begun
        wrong += [] if waited >= 0.9e-3 * pushback else ["came again after %.2f s" % waited]
        for replica in (cluster[0], cluster[1]):
            hold.empty(replica)
    refusals = sum(line["status"] == "RESOURCE_EXHAUSTED" and line["id"].startswith(name)
                   for replica in cluster for line in replica.calls())
    return row("two of three full, then all", front, calls,
               "%d refusals in all; all full: %s, pushback %s ms" % (refusals, refused.status,
                                                                    refused.pushback), wrong)
