"""A chat with a model that has a chat template; Ctrl-D ends it.

    python3 chat.py --system="You are brief."
"""
import argparse
import sys
from typing import Dict, List

from packrat_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="")
    parser.add_argument("--max_tokens", type=int, default=500)
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()

    messages: List[Dict[str, str]] = []
    if arguments.system:
        messages.append({"role": "system", "content": arguments.system})
    with Client(arguments.address, timeout=300) as client:
        if not client.model_info().tokenizer.has_chat_template:
            sys.exit("The model has no chat template: it goes on from texts, as in complete.py.")
        while True:
            try:
                messages.append({"role": "user", "content": input("> ")})
            except EOFError:
                break
            answer = ""
            for message in client.stream(messages, max_tokens=arguments.max_tokens):
                print(message.text, end="", flush=True)
                answer += message.text
            print()
            # The next turn sends all of it. The server computes what is new, and knows the rest.
            messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main()
