"""Calls from many threads, and what became of each."""

import dataclasses
import random
import threading
import time

import grpc

from packrat_client import lost_replica
from packrat_client.proto import inference_pb2, inference_pb2_grpc

PROMPT = "The little dog"


@dataclasses.dataclass
class Attempt:
    """One call on the wire; `id` stands in the log of the replica that had it."""
    id: str
    begun: float
    ended: float
    status: str
    details: str
    tokens: list
    pushback: str    # Milliseconds, from the trailers.
    retryable: bool  # By the rule of packrat_client.


@dataclasses.dataclass
class Call:
    """What a user sees as one: tried again where the server or the balancer says that it may be."""
    max_tokens: int
    attempts: list

    def ok(self):
        return self.attempts[-1].status == "OK"

    def at_once(self):
        return self.ok() and len(self.attempts) == 1

    def broken(self):
        """The attempts that did not end well."""
        return [attempt for attempt in self.attempts if attempt.status != "OK"]


def attempt(stub, request, call_id, session=None, timeout=120):
    """One call, read to its end. A stream that ends with OK before its last message is "CUT"."""
    metadata = [("x-request-id", call_id)] + ([("x-session", session)] if session else [])
    begun, tokens, finished, pushback, retryable = time.monotonic(), [], False, None, False
    stream = stub.Generate(request, timeout=timeout, metadata=metadata)
    try:
        for message in stream:
            tokens.extend(message.token_ids)
            finished = message.HasField("finished")
        whole = finished and len(tokens) == request.stop.max_tokens
        status, details = ("OK" if whole else "CUT"), ""
    except grpc.RpcError as error:
        status, details = error.code().name, error.details()
        pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        retryable = pushback is not None or lost_replica(error)
    return Attempt(call_id, begun, time.monotonic(), status, details, tokens, pushback, retryable)


def request_of(max_tokens, seed):
    return inference_pb2.GenerateRequest(
        text=PROMPT, sampling=inference_pb2.SamplingParams(seed=seed),
        stop=inference_pb2.StopParams(max_tokens=max_tokens, ignore_eos=True))


def call(stub, call_id, max_tokens, tries=1, session=None):
    """As packrat_client does it: the same seed again, so that the text goes on where it broke."""
    request = request_of(max_tokens, random.getrandbits(63))
    attempts = []
    for number in range(tries):
        last = attempt(stub, request, "%s.%d" % (call_id, number), session)
        if attempts and last.status == "OK":
            come = attempts[-1].tokens
            assert last.tokens[:len(come)] == come, "another text for the same seed: " + call_id
        attempts.append(last)
        if not last.retryable or number == tries - 1:
            break
        time.sleep(int(last.pushback or 200) / 1000)
    return Call(max_tokens, attempts)


def mixed(rng):
    """Tokens of a call: mostly short, one in ten twenty times as long."""
    return rng.randint(100, 300) if rng.random() < 0.1 else rng.randint(2, 16)


class Load:
    """Threads that call one after the other, from start to stop(), over a number of channels with connections
    of their own."""

    def __init__(self, front, name, threads=12, channels=6, tries=1, tokens=mixed, limit=10**9):
        self.calls = []
        self._limit, self._tries, self._tokens, self._name = limit, tries, tokens, name
        self._lock = threading.Lock()
        self._begun = 0
        self._stop = False
        self._errors = []
        self._channels = [front.channel() for _ in range(channels)]
        stubs = [inference_pb2_grpc.InferenceStub(channel) for channel in self._channels]
        self._threads = [threading.Thread(target=self._run, args=(stubs[i % channels], i))
                         for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, stub, index):
        rng = random.Random(index)
        try:
            while not self._stop:
                with self._lock:
                    number, self._begun = self._begun, self._begun + 1
                if number >= self._limit:
                    return
                done = call(stub, "%s-%d" % (self._name, number), self._tokens(rng), self._tries)
                with self._lock:
                    self.calls.append(done)
        except Exception as error:  # pylint: disable=broad-except
            self._errors.append(error)

    def wait(self):
        """Until the limit of calls is reached, or stop() was called; returns the calls."""
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()
        if self._errors:
            raise self._errors[0]
        return self.calls

    def stop(self):
        """Lets the calls that run come to their end; returns all of them."""
        self._stop = True
        return self.wait()
