"""Streams of texts and of chats over HTTP from many threads, through whatever stands before three replicas."""

import concurrent.futures
import http.client
import json
import re
import threading
import time

from tests.clients import serving
from tests.cluster.replicas import wait_until

CALLS, THREADS = 120, 12  # Half of each are chats.


def answers(port):
    """Whether a completion gets through."""
    try:
        return ask(port, {"max_tokens": 1})[0] == "OK"
    except (OSError, http.client.HTTPException, ValueError):
        return False


def ask(port, options=(), headers=(), chat=False):
    """One streamed answer: "OK", the HTTP status, or "BROKEN" where the stream has no end; and its text."""
    path = "/v1/chat/completions" if chat else "/v1/completions"
    body = {"messages": [{"role": "user", "content": "The little dog"}]} if chat else {"prompt": "The little dog"}
    body.update({"model": serving.CHAT, "max_tokens": 24, "ignore_eos": True, "seed": 1, "stream": True},
                **dict(options))
    try:
        status, _, text = serving.ask(port, path, body, headers)
    except (OSError, http.client.HTTPException):
        return "BROKEN", ""
    if status != 200:
        return str(status), text
    events = re.findall(r"^data: (.*)$", text, re.MULTILINE)
    if not events or events[-1] != "[DONE]":
        return "BROKEN", text
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    return "OK", "".join(c["delta"].get("content", "") if chat else c["text"] for c in choices)


def share(cluster, play):
    """What play() returns, and how many calls each replica has had meanwhile."""
    before = [replica.metric("packrat_generated_tokens_total") for replica in cluster]
    done = play()
    wait_until(lambda: all(replica.idle() for replica in cluster), "all is quiet")
    after = [replica.metric("packrat_generated_tokens_total") for replica in cluster]
    return done, [int(new - old) for old, new in zip(before, after)]


def many(port):
    """What becomes of all calls, every other of which is a chat."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda number: ask(port, chat=number % 2 == 1), range(CALLS)))


def spread(cluster, port):
    done, tokens = share(cluster, lambda: many(port))
    assert {status for status, _ in done} == {"OK"}, done[:3]
    for texts in done[::2], done[1::2]:
        assert len(set(texts)) == 1 and texts[0][1], texts[:3]  # One seed, one text, wherever.
    assert min(tokens) > 0.1 * sum(tokens), tokens
    return "%d streams, half of them chats, all well, %s tokens" % (len(done), "/".join(map(str, tokens)))


def sessions(cluster, port, calls=lambda: 0):
    """Turns of one x-session, one after the other, go to one replica; at once they may be more than its share.
    `calls()`: those that the balancer counts, which may be the last one for some more microseconds."""
    def turn(headers):
        wait_until(lambda: calls() == 0, "the balancer knows that the last call is over")
        return ask(port, headers=headers)

    homes = set()
    for number in range(8):
        headers = {"x-session": "user-%d" % number}
        done, tokens = share(cluster, lambda: [turn(headers) for _ in range(4)])
        assert {status for status, _ in done} == {"OK"}, done
        assert sorted(tokens)[:2] == [0, 0], tokens
        homes.add(tokens.index(max(tokens)))
    assert len(homes) > 1, homes
    return "x-session keeps its replica"


class Callers:
    """Threads that call one after the other; `done` has what became of each call."""

    def __init__(self, port):
        self.done = []
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 1,)) for number in range(THREADS)]

    def _run(self, chat):
        while not self._stop.is_set():
            self.done.append(ask(self._port, chat=chat)[0])

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def kill(cluster, port):
    """SIGKILL of one of three under load: what it wrote breaks, nothing else."""
    with Callers(port) as callers:
        time.sleep(1)
        cluster[0].kill()
        before = len(callers.done)
        time.sleep(4)
    cluster[0].start()
    broken = [status for status in callers.done if status != "OK"]
    assert len(callers.done) > before + THREADS, (before, len(callers.done))  # The others go on.
    # Each caller had one stream at most with it, and met its absence once before that was noticed.
    assert len(broken) <= 2 * THREADS, broken
    wait_until(lambda: answers(port), "it is back")
    return "SIGKILL of one: %d of %d broken" % (len(broken), len(callers.done))


def drain(cluster, port):
    """SIGTERM of all in turn, each started again: nothing is lost."""
    with Callers(port) as callers:
        for replica in cluster:
            assert replica.stop() == 0
            replica.start()
            time.sleep(2)
    assert set(callers.done) == {"OK"}, {status: callers.done.count(status) for status in set(callers.done)}
    return "SIGTERM of all in turn: %d streams, none lost" % len(callers.done)
