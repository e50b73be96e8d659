#!/usr/bin/python3
"""Streams a completion: with a deadline, a cancel, and another try where the server asks for one.

    ./dev python docs/client.py "Once upon a time"
"""
import json
import random
import sys
import time

import grpc
from proto.packrat.v1 import inference_pb2, inference_pb2_grpc

# For a channel to several replicas without a balancer between, e.g.
#     grpc.insecure_channel("dns:///packrat.example:50051", options=BALANCED)
# Every call takes the next replica that says it is ready; one that was refused (a replica that drains or is
# full) goes to another, after the server's pushback if it sent one.
BALANCED = (("grpc.service_config", json.dumps({
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "packrat.v1.Inference"},
    "methodConfig": [{
        "name": [{"service": "packrat.v1.Inference"}],
        "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]})),
            # A replica that stands still ends its streams, with UNAVAILABLE, instead of holding them.
            ("grpc.keepalive_time_ms", 10000), ("grpc.keepalive_timeout_ms", 5000))


def lost_replica(error):
    """Whether another replica may do better. A balancer that loses its replica in the middle of a stream ends
    the stream with a status of its own (Envoy: INTERNAL, HAProxy: UNKNOWN); what Packrat itself ends has its
    request's id in the trailers."""
    return error.code() == grpc.StatusCode.UNAVAILABLE or (
        error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        and "x-request-id" not in dict(error.trailing_metadata() or ()))


def complete(stub, text, deadline=30.0, attempts=5, max_tokens=100, **sampling):
    """Yields the text in pieces. Closing the generator (or leaving its loop) cancels the call."""
    # With a seed of our own a second try gives the same text, so that it goes on where the first one broke.
    sampling.setdefault("seed", random.getrandbits(63))
    request = inference_pb2.GenerateRequest(
        text=text, sampling=inference_pb2.SamplingParams(**sampling),
        stop=inference_pb2.StopParams(max_tokens=max_tokens))
    given = 0  # Characters.
    for attempt in range(1, attempts + 1):
        call = stub.Generate(request, timeout=deadline)  # Seconds; then DEADLINE_EXCEEDED.
        come = 0
        try:
            for message in call:
                come += len(message.text)
                if come > given:
                    yield message.text[given - come:]
                    given = come
            return
        except grpc.RpcError as error:
            # A full queue says when to come back; a message that is too large is RESOURCE_EXHAUSTED as
            # well, and does not.
            wait = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
            if wait is None and lost_replica(error):
                wait = 1000
            if attempt == attempts or wait is None:
                raise
            time.sleep(int(wait) / 1000)
        finally:
            call.cancel()  # The server frees the sequence within one step; no effect once it ended.


if __name__ == "__main__":
    with grpc.insecure_channel("127.0.0.1:50051") as channel:
        for piece in complete(inference_pb2_grpc.InferenceStub(channel), " ".join(sys.argv[1:])):
            print(piece, end="", flush=True)
    print()
