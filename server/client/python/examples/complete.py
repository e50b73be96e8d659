"""Streams a completion: the text is printed as it comes.

    python3 complete.py "Once upon a time"
"""
import argparse

from packrat_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--max_tokens", type=int, default=100)
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()

    with Client(arguments.address, timeout=60) as client:
        print(arguments.prompt, end="", flush=True)
        for message in client.stream(arguments.prompt, max_tokens=arguments.max_tokens):
            print(message.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
