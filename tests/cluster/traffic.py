"""Users of every kind, good and bad, for the soak. Each kind is a function of a Caller that makes one call
and returns its Outcome, or several calls and a list."""

import dataclasses
import hashlib
import random
import socket
import threading
import time

import grpc

from packrat_client.proto import inference_pb2_grpc
from tests.cluster import load

GENERATE = "/packrat.v1.Inference/Generate"
# Keys of two tenants; KEYS is the servers' file of them.
USERS, FLOOD = "the key of most users", "the key of one who sends too much"
KEYS = "".join("%s sha256:%s %s\n" % (name, hashlib.sha256(key.encode()).hexdigest(), limits)
               for name, key, limits in (("users", USERS, ""), ("flood", FLOOD, "streams=8")))


@dataclasses.dataclass
class Outcome:
    kind: str
    id: str
    status: str
    details: str
    tokens: int
    begun: float
    ended: float
    expected: tuple  # Statuses that this kind ends with.


class Caller:
    """One thread's channel and random numbers, and what calls have in common."""

    def __init__(self, front, name, seed):
        self.front, self.name = front, name
        self.rng = random.Random(seed)
        self.channel = front.channel()
        self.stub = inference_pb2_grpc.InferenceStub(self.channel)
        self._number = 0

    def metadata(self, key=USERS):
        """A key, and a new id for the call."""
        self._number += 1
        return {"authorization": "Bearer " + key, "x-request-id": "%s-%d" % (self.name, self._number)}

    def read(self, kind, request, expected=("OK",), each=None, timeout=120, key=USERS, channel=None):
        """A call that reads its stream; `each(call, messages so far)` is called after each message."""
        metadata, begun = self.metadata(key), time.monotonic()
        stub = inference_pb2_grpc.InferenceStub(channel) if channel else self.stub
        stream = stub.Generate(request, timeout=timeout, metadata=metadata.items())
        return self.read_stream(kind, stream, metadata["x-request-id"], begun, expected, each)

    @staticmethod
    def read_stream(kind, stream, call_id, begun, expected, each=None):
        tokens, messages = 0, 0
        try:
            if each:
                each(stream, 0)
            for message in stream:
                tokens += len(message.token_ids)
                messages += 1
                if each:
                    each(stream, messages)
            status, details = "OK", ""
        except grpc.RpcError as error:
            status, details = error.code().name, error.details()
        except grpc.FutureCancelledError:
            status, details = "CANCELLED", ""
        return Outcome(kind, call_id, status, details, tokens, begun, time.monotonic(), expected)


def short(caller):
    return caller.read("short", load.request_of(caller.rng.randint(2, 16), caller.rng.getrandbits(63)))


def long(caller):
    return caller.read("long", load.request_of(caller.rng.randint(200, 800), caller.rng.getrandbits(63)))


def cancelled(caller):
    """Goes away before or in the midst of the text."""
    after = caller.rng.choice((0, 1, 5, 20))

    def each(stream, messages):
        if messages == after:
            # Time to be sent: what gRPC 1.51 cancels before that may reach Envoy as a frame of a stream that
            # is not open, for which Envoy ends the whole connection.
            time.sleep(0.02 if messages == 0 else 0)
            stream.cancel()
    return caller.read("cancelled", load.request_of(2000, 1), ("CANCELLED",), each)


def deadline(caller):
    return caller.read("deadline", load.request_of(2000, 1), ("DEADLINE_EXCEEDED",),
                       timeout=caller.rng.uniform(0.02, 0.5))


def slow(caller):
    """Reads, but slowly: nobody may cut it."""
    return caller.read("slow reader", load.request_of(60, caller.rng.getrandbits(63)), ("OK",),
                       lambda stream, messages: time.sleep(0.05))


def silent(caller):
    """Does not read, and is cut off by --stream_idle_timeout: CANCELLED by the server, or INTERNAL by Envoy.
    Log-probabilities make the text larger than all that the connections hold for it."""
    request = load.request_of(3000, 1)
    request.sampling.num_logprobs = 20
    # gRPC's own window would grow to megabytes.
    with caller.front.channel((("grpc.http2.bdp_probe", 0),)) as channel:
        return caller.read("silent reader", request, ("CANCELLED", "INTERNAL"),
                           lambda stream, messages: time.sleep(20 if messages == 1 else 0),
                           channel=channel)


def bad(caller):
    """What no server can serve."""
    request = load.request_of(4, 1)
    what = caller.rng.randrange(6)
    if what == 0:
        request.stop.max_tokens = -1
    elif what == 1:
        request.sampling.top_p = 2
    elif what == 2:
        request.ClearField("text")
    elif what == 3:
        request.tokens.ids.extend([5, 99999])
    elif what == 4:
        request.text = "long " * 20000
    else:
        request.fork_from = "not built"
    return caller.read("bad request", request, ("INVALID_ARGUMENT",))


def garbage(caller):
    """Bytes that are no message, a method that is not there, or a message that is too large."""
    what = caller.rng.randrange(3)
    method, body, expected = ((GENERATE, b"\xff" * 100, ("UNIMPLEMENTED",)),  # So says gRPC.
                              ("/packrat.v1.Inference/Nothing", b"", ("UNIMPLEMENTED",)),
                              (GENERATE, b"\x0a" * (5 << 20), ("RESOURCE_EXHAUSTED",)))[what]
    begun, metadata = time.monotonic(), caller.metadata()
    try:
        list(caller.channel.unary_stream(method)(body, timeout=60, metadata=metadata.items()))
        status, details = "OK", ""
    except grpc.RpcError as error:
        status, details = error.code().name, error.details()
    return Outcome("garbage", metadata["x-request-id"], status, details, 0, begun, time.monotonic(), expected)


def stranger(caller):
    return caller.read("no such key", load.request_of(4, 1), ("UNAUTHENTICATED",), key="guessed")


def flood(caller):
    """Many calls at once of a tenant who may have few."""
    streams = []
    for _ in range(40):
        metadata, begun = caller.metadata(FLOOD), time.monotonic()
        stream = caller.stub.Generate(load.request_of(30, caller.rng.getrandbits(63)), timeout=120,
                                      metadata=metadata.items())
        streams.append((stream, metadata["x-request-id"], begun))
    return [caller.read_stream("flood", *one, ("OK", "RESOURCE_EXHAUSTED")) for one in streams]


def vanished(caller):
    """A client that dies: its connection ends in the midst of calls."""
    begun = time.monotonic()
    channel = caller.front.channel()
    stub = inference_pb2_grpc.InferenceStub(channel)
    streams = [stub.Generate(load.request_of(3000, 1), metadata=caller.metadata().items())
               for _ in range(4)]
    time.sleep(caller.rng.uniform(0, 0.3))
    channel.close()
    del streams
    return Outcome("vanished", "", "CANCELLED", "", 0, begun, time.monotonic(), ("CANCELLED",))


def noise(caller):
    """A connection that says something else than HTTP/2, or nothing, and goes away."""
    begun = time.monotonic()
    host, port = caller.front.target.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(caller.rng.choice((b"", b"GET / HTTP/1.1\r\n\r\n", caller.rng.randbytes(500))))
        time.sleep(caller.rng.uniform(0, 0.2))
    return Outcome("noise", "", "-", "", 0, begun, time.monotonic(), ("-",))


# How often each comes.
KINDS = {short: 50, long: 8, cancelled: 12, deadline: 8, slow: 4, silent: 1, bad: 8, garbage: 4,
         vanished: 2, noise: 3, stranger: 3, flood: 1}


class Traffic:
    """Threads of callers until stop()."""

    def __init__(self, front, threads=16, first=0):
        self.outcomes = []
        self._stop = threading.Event()
        self._errors = []
        self._threads = [threading.Thread(target=self._run, args=(Caller(front, "soak-%d" % i, i),))
                         for i in range(first, first + threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, caller):
        try:
            while not self._stop.is_set():
                kind, = caller.rng.choices(list(KINDS), KINDS.values())
                done = kind(caller)
                self.outcomes.extend(done if isinstance(done, list) else [done])
        except Exception as error:  # pylint: disable=broad-except
            self._errors.append(error)
        finally:
            caller.channel.close()

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return self.outcomes
