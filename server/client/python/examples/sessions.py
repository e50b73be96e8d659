"""One beginning, three stories: a session keeps its text, is forked, and is taken back a turn.

    python3 sessions.py "Once upon a time"
"""
import argparse

from packrat_client import Client, Session


def tell(client: Client, name: str, session: Session, text: str) -> None:
    """A turn, which sends what is new alone; then all that the server has."""
    usage = session.complete(text, max_tokens=20).usage
    print("%s: %r" % (name, client.detokenize(session.info(include_token_ids=True).token_ids)))
    print("  %d tokens of the prompt were there, %d are new"
          % (usage.cached_tokens, usage.prompt_tokens - usage.cached_tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beginning")
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()

    with Client(arguments.address, timeout=60) as client, client.create_session() as story:
        tell(client, "beginning", story, arguments.beginning)
        with story.fork() as other:  # Deleted where its block ends, as `story` is.
            tell(client, "story", story, " The dog")
            tell(client, "fork", other, " The cat")
        story.rewind(turns=1)
        tell(client, "taken back", story, " The bird")


if __name__ == "__main__":
    main()
