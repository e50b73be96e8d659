"""Several continuations of a prompt in one call, of which the likeliest is the best.

    python3 choices.py "Once upon a time" --choices=4
"""
import argparse

from packrat_client import Choice, Client


def mean(choice: Choice) -> float:
    """The log-probability of a token, as the model sees it."""
    return sum(token.logprob for token in choice.logprobs) / len(choice.logprobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()

    with Client(arguments.address, timeout=60) as client:
        answer = client.complete(arguments.prompt, num_choices=arguments.choices, temperature=0.8,
                                 min_tokens=1, max_tokens=30, num_logprobs=0)
    best = max(answer.choices, key=mean)
    for choice in answer.choices:
        print("%s %7.3f %r" % ("*" if choice is best else " ", mean(choice), arguments.prompt + choice.text))


if __name__ == "__main__":
    main()
