"""Recommends temperature and top-p by measurement.

    python3 -m models.train.sampling --model models/demo --judge OTHER --text validation.txt

The texts' own stories are the measure: each document's beginning is continued by the served engine,
and the continuation is compared with the document's own, of the same number of tokens, in two
numbers. `surprise`: its bits per byte under the judge, a second model. Lower than people's is dull,
higher is confused. `variety`: the share of distinct runs of four words in a continuation; lower than
people's is repetition. Both fall with the temperature, but not together. The setting recommended is
the one whose worse number is nearest to people's:

    distance = max(|ln(surprise / people's)|, |ln(variety / people's)|)

The judge should be another model, the larger the better. A model that judges itself finds its own
text at temperature 1 no more surprising than it expects to (that is what its probabilities say),
however odd the text is. Prints Markdown; `models/train/export.py --temperature --top_p` takes it.
"""

import argparse
import concurrent.futures
import dataclasses
import math

from models.train import files, served
from models.train.files import Mistake

TEMPERATURES = ("0.5", "0.6", "0.7", "0.8", "0.9", "1.0")
TOP_PS = ("0.8", "0.9", "0.95", "1.0")


@dataclasses.dataclass
class Numbers:
    surprise: float
    variety: float

    def distance(self, people):
        return max(abs(math.log(self.surprise / people.surprise)),
                   abs(math.log(self.variety / people.variety)))


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


def table(measured, people):
    """(Markdown, the best setting) of {(temperature, top_p): Numbers}."""
    best = min(measured, key=lambda setting: measured[setting].distance(people))
    lines = ["| temperature | top-p | surprise (bits per byte) | variety | distance |",
             "|---|---|---|---|---|",
             f"| people | | {people.surprise:.3f} | {people.variety:.3f} | |"]
    for setting, numbers in measured.items():
        mark = "**" if setting == best else ""
        lines.append(f"| {setting[0]} | {setting[1]} | {numbers.surprise:.3f} | "
                     f"{numbers.variety:.3f} | {mark}{numbers.distance(people):.3f}{mark} |")
    return "\n".join(lines), best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--judge", help="model folder; the model itself unless given")
    parser.add_argument("--text", required=True, help="documents of the kind that the model writes")
    parser.add_argument("--longest", type=int, default=4000, help="characters of such a document")
    parser.add_argument("--prompt_tokens", type=int, default=16)
    parser.add_argument("--max_tokens", type=int, default=100)
    parser.add_argument("--samples", type=int, default=64, help="texts for each setting")
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
    lines, best = table(measured, people)
    print(f"{args.samples} texts a setting, from {len(pairs)} beginnings.\n\n{lines}\n\n"
          f"Recommended: temperature {best[0]}, top-p {best[1]}.")


if __name__ == "__main__":
    files.run_main(main)
