"""Many streams at once. What the server has no place for comes again when it says so.

    python3 asyncio_many.py "The cat" --count=20
"""
import argparse
import asyncio

import grpc
from packrat_client import AsyncClient


async def tell(client: AsyncClient, prompt: str, seed: int) -> None:
    text = prompt
    try:
        async with client.stream(prompt, seed=seed, max_tokens=20) as stream:
            async for message in stream:
                text += message.text
        print("%r" % text)
    except grpc.RpcError as error:  # After all tries; the others go on.
        print("%s: %s" % (error.code().name, error.details()))


async def run(prompt: str, count: int, address: str) -> None:
    # With `resume` a text that breaks off goes on at another replica, with the same seed.
    async with AsyncClient(address, timeout=120, attempts=20, resume=True) as client:
        await asyncio.gather(*(tell(client, prompt, seed) for seed in range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.prompt, arguments.count, arguments.address))


if __name__ == "__main__":
    main()
