#!/usr/bin/python3
"""Streams a completion: with a deadline, a cancel, and another try where the server asks for one.

    ./dev python docs/client.py "Once upon a time"
"""
import sys
import time

import grpc
from proto.packrat.v1 import inference_pb2, inference_pb2_grpc


def complete(stub, text, deadline=30.0, attempts=5, max_tokens=100, **sampling):
    """Yields the text in pieces. Closing the generator (or leaving its loop) cancels the call."""
    request = inference_pb2.GenerateRequest(
        text=text, sampling=inference_pb2.SamplingParams(**sampling),
        stop=inference_pb2.StopParams(max_tokens=max_tokens))
    for attempt in range(1, attempts + 1):
        call = stub.Generate(request, timeout=deadline)  # Seconds; then DEADLINE_EXCEEDED.
        begun = False
        try:
            for message in call:
                begun = True
                yield message.text
            return
        except grpc.RpcError as error:
            # What has begun cannot be tried again: its text is out. A full queue says when to come
            # back; a message that is too large is RESOURCE_EXHAUSTED as well, and does not.
            wait = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
            if wait is None and error.code() == grpc.StatusCode.UNAVAILABLE:
                wait = 1000
            if begun or attempt == attempts or wait is None:
                raise
            time.sleep(int(wait) / 1000)
        finally:
            call.cancel()  # The server frees the sequence within one step; no effect once it ended.


if __name__ == "__main__":
    with grpc.insecure_channel("127.0.0.1:50051") as channel:
        for piece in complete(inference_pb2_grpc.InferenceStub(channel), " ".join(sys.argv[1:])):
            print(piece, end="", flush=True)
    print()
