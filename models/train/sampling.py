"""Recommends temperature and top-p by measurement.

    python3 -m models.train.sampling --model models/demo [--judge OTHER] --text validation.txt

Beginnings of the text's own documents are continued by the served engine, and the continuations are
compared with people's, of the same number of tokens, in two numbers. `variety`: the share of
distinct runs of four words in a continuation; a model that is too sure of itself repeats itself.
`surprise`: bits per byte under a judge; a model that dares too much is confused. The lower the
temperature, the lower both are. Recommended is the least surprising setting that repeats itself
hardly more than people do: whose variety is at least 1 - --repetition of theirs.

Surprise equal to people's is no aim: a small model's probabilities at temperature 1 are about right,
so there it holds at temperature 1, where each sentence is as rare as a person's, and half of them
make no sense. The judge is the model itself unless another folder is given; a larger one sees more.
Prints Markdown; `models/train/export.py --temperature --top_p` takes the result.
"""

import argparse
import concurrent.futures
import dataclasses

from models.train import files, served
from models.train.files import Mistake

TEMPERATURES = ("0.5", "0.6", "0.7", "0.8", "0.9", "1.0")
TOP_PS = ("0.8", "0.9", "0.95", "1.0")


@dataclasses.dataclass
class Numbers:
    surprise: float
    variety: float


def variety(texts, words=4):
    """Mean share of distinct runs of `words` words within a text."""
    shares = []
    for text in texts:
        split = text.split()
        runs = [tuple(split[i : i + words]) for i in range(len(split) - words + 1)]
        if runs:
            shares.append(len(set(runs)) / len(runs))
    return sum(shares) / max(1, len(shares))


def surprise(binaries, judge, prompts, texts):
    """Bits per byte of the texts, each after its prompt, under the judge."""
    text = served.Text(judge, [p + t for p, t in zip(prompts, texts)])
    nats = size = 0.0
    scored = binaries.token_nats(judge, text.ids, text.vocab_size)
    for prompt, ids, each in zip(prompts, text.ids, scored):
        lengths = text.bytes_of(ids)
        # Tokens that begin behind the prompt: the judge may cut at other places.
        after = lengths.cumsum(0) - lengths >= len(prompt.encode("utf-8"))
        nats += float(each[after].sum())
        size += float(lengths[after].sum())
    return served.bits(nats, size)


def measure(binaries, judge, prompts, texts):
    pairs = [(p, t) for p, t in zip(prompts, texts) if t.strip()]
    if not pairs:
        raise Mistake("no continuation has any text")
    return Numbers(surprise(binaries, judge, *zip(*pairs)), variety([t for _, t in pairs]))


def beginnings(tokenizer, documents, prompt_tokens, max_tokens):
    """[(beginning, people's own continuation)] of documents that are long enough."""
    pairs = []
    for document in documents:
        ids = tokenizer.encode(document)[: prompt_tokens + max_tokens]
        if len(ids) == prompt_tokens + max_tokens:
            beginning = tokenizer.decode(ids[:prompt_tokens])
            pairs.append((beginning, tokenizer.decode(ids)[len(beginning) :]))
    return pairs


def continue_all(server, prompts, max_tokens, temperature, top_p, first_seed):
    """Texts of max_tokens tokens, none ended before; text i has the seed first_seed + i."""
    def one(i):
        return server.json("complete", f"--temperature={temperature}", f"--top_p={top_p}",
                           f"--seed={first_seed + i}", f"--max_tokens={max_tokens}",
                           f"--min_tokens={max_tokens}", "--", prompts[i])["text"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(len(prompts))))


def recommend(measured, people, repetition):
    """The best setting of {(temperature, top_p): Numbers}."""
    varied = [setting for setting, numbers in measured.items()
              if numbers.variety >= (1 - repetition) * people.variety]
    if varied:
        return min(varied, key=lambda setting: measured[setting].surprise)
    return max(measured, key=lambda setting: measured[setting].variety)


def table(measured, people, best):
    lines = ["| temperature | top-p | surprise (bits per byte) | variety |", "|---|---|---|---|",
             f"| people | | {people.surprise:.3f} | {people.variety:.3f} |"]
    for setting, numbers in measured.items():
        mark = "**" if setting == best else ""
        lines.append(f"| {mark}{setting[0]}{mark} | {mark}{setting[1]}{mark} | "
                     f"{numbers.surprise:.3f} | {numbers.variety:.3f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--judge", help="model folder; the model itself unless given")
    parser.add_argument("--text", required=True, help="documents of the kind that the model writes")
    parser.add_argument("--longest", type=int, default=4000, help="characters of such a document")
    parser.add_argument("--prompt_tokens", type=int, default=16)
    parser.add_argument("--max_tokens", type=int, default=100)
    parser.add_argument("--samples", type=int, default=128, help="texts for each setting")
    parser.add_argument("--repetition", type=float, default=0.01,
                        help="variety that may be lost against people's, as a share")
    parser.add_argument("--temperature", action="append", help="repeated: in place of the grid's")
    parser.add_argument("--top_p", action="append", help="the same")
    parser.add_argument("--seed", type=int, default=1)
    served.add_arguments(parser)
    args = parser.parse_args()
    binaries = served.Binaries(args.bin)
    judge = args.judge or args.model
    documents = served.read_text(args.text, at_most=args.longest)
    tokenizer = served.load_tokenizer(args.model)
    pairs = beginnings(tokenizer, documents, args.prompt_tokens, args.max_tokens)
    if not pairs:
        raise Mistake(f"{args.text}: no document of {args.prompt_tokens + args.max_tokens} tokens "
                      f"and at most {args.longest} characters")
    people = measure(binaries, judge, *zip(*pairs))
    prompts = [pairs[i % len(pairs)][0] for i in range(args.samples)]
    measured = {}
    with served.Server(binaries, args.model) as server:
        for temperature in args.temperature or TEMPERATURES:
            for top_p in args.top_p or TOP_PS:
                texts = continue_all(server, prompts, args.max_tokens, temperature, top_p,
                                     args.seed)
                measured[temperature, top_p] = measure(binaries, judge, prompts, texts)
    best = recommend(measured, people, args.repetition)
    print(f"{args.samples} texts a setting, from {len(pairs)} beginnings.\n\n"
          f"{table(measured, people, best)}\n\n"
          f"Recommended: temperature {best[0]}, top-p {best[1]}.")


if __name__ == "__main__":
    files.run_main(main)
