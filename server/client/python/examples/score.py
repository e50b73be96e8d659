"""Ranks what may follow a text: the likeliest comes first.

    python3 score.py "The little dog" " barked." " flew to the moon." " was happy."
"""
import argparse

from packrat_client import Choice, Client


def mean(choice: Choice) -> float:
    """The log-probability of a token: a sum would be the less the longer a candidate is."""
    return choice.finished.score.logprob / choice.finished.score.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("candidates", nargs="+")
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()

    with Client(arguments.address, timeout=60) as client:
        scored = zip(client.score(arguments.prompt, arguments.candidates), arguments.candidates)
        for choice, candidate in sorted(scored, key=lambda pair: mean(pair[0]), reverse=True):
            print("%7.3f %s" % (mean(choice), arguments.prompt + candidate))


if __name__ == "__main__":
    main()
