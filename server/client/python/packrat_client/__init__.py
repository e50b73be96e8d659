"""A client of Packrat, the inference server for hybrid recurrent-attention language models.

    from packrat_client import Client

    with Client("127.0.0.1:50051") as client:
        print(client.complete("Once upon a time", max_tokens=40).text)
        for message in client.stream("The little dog", temperature=0.8, seed=7):
            print(message.text, end="", flush=True)

`AsyncClient` has the same calls for asyncio. Calls that fail raise `grpc.RpcError`, after as many tries as
`attempts` allows; `request_id` and `retry_after` read what the server says of them. Messages are those of the
contract, in `packrat_client.proto.inference_pb2`, with type stubs.
"""
from packrat_client._answers import Choice, Completion
from packrat_client._channel import Tls
from packrat_client._requests import GenerateOptions, Prompt, ScoreOptions
from packrat_client._retry import lost_replica, request_id, retry_after
from packrat_client.aio import AsyncClient, AsyncSession, AsyncStream
from packrat_client.sync import Client, Session, Stream

__all__ = ["AsyncClient", "AsyncSession", "AsyncStream", "Choice", "Client", "Completion", "GenerateOptions",
           "Prompt", "ScoreOptions", "Session", "Stream", "Tls", "lost_replica", "request_id", "retry_after"]
