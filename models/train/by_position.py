"""Bits per byte by position in the text: does a model use its context?

    python3 -m models.train.by_position --model models/demo --text LONG.txt --count 8

Every document of --tokens tokens or more is scored twice by the served engine: from its start, and
anew from <s> and the last --near tokens or more before each stretch. Both columns are of the very
same bytes, so that their difference is what the context before those last tokens is worth; one
column alone would also tell which parts of a book are harder. ± is the standard error of the gain
over the documents. Prints Markdown.
"""

import argparse

import torch

from models.train import files, served
from models.train.files import Mistake


def measure(binaries, model, text, tokens, near, solver=()):
    """(bytes, nats with all the context, with the nearest), float64 (documents, tokens // near)."""
    whole = [ids[: tokens + 1] for ids in text.ids]
    pieces = [[text.bos] + ids[max(1, begin - near + 1) : begin + near + 1]
              for ids in whole for begin in range(0, tokens, near)]
    far = binaries.token_nats(model, whole, text.vocab_size, solver)
    close = binaries.token_nats(model, pieces, text.vocab_size, solver)
    buckets = tokens // near
    size = torch.stack([text.bytes_of(ids).view(buckets, near).sum(1) for ids in whole])
    far = torch.stack([nats.view(buckets, near).sum(1) for nats in far])
    close = torch.stack([nats[-near:].sum() for nats in close]).view(-1, buckets)
    return size, far, close


def table(size, far, close, near, rows):
    """Markdown of `rows` stretches that double in length: near, near, 2 near, 4 near, ..."""
    lines = ["| tokens before | bytes | all the context | "
             f"the last {near} to {2 * near} only | gain |", "|---|---|---|---|---|"]
    begin = 0
    for i in range(rows):
        end = min(size.shape[1], 1 << i)
        sizes, *nats = (x[:, begin:end].sum(1) for x in (size, far, close))  # of each document
        with_all, with_near = (served.bits(float(x.sum()), float(sizes.sum())) for x in nats)
        gains = served.bits(nats[1] - nats[0], sizes)
        error = float(gains.std()) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        lines.append(f"| {begin * near} to {end * near} | {round(float(sizes.sum()))} | "
                     f"{with_all:.4f} | {with_near:.4f} | {with_near - with_all:+.4f} "
                     f"± {error:.4f} |")
        begin = end
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True, help="long documents (.xz too)")
    parser.add_argument("--tokens", type=int, default=4096, help="a power of two times --near")
    parser.add_argument("--near", type=int, default=128)
    parser.add_argument("--count", type=int, default=8, help="documents")
    parser.add_argument("--skip_characters", type=int, default=2000,
                        help="of each document: titles and the like")
    served.add_arguments(parser)
    args = parser.parse_args()
    binaries = served.Binaries(args.bin)
    rows = (args.tokens // args.near).bit_length()
    if args.near < 1 or args.tokens != args.near << (rows - 1):
        raise Mistake("--tokens must be --near times a power of two")
    # A token has 8 characters at most on average, whatever the text.
    documents = served.read_text(args.text, args.skip_characters + 8 * args.tokens,
                                 count=args.count)
    documents = [d[args.skip_characters :][: 8 * args.tokens] for d in documents]
    text = served.Text(args.model, documents)
    text.ids = [ids for ids in text.ids if len(ids) > args.tokens]
    if not text.ids:
        raise Mistake(f"{args.text}: no document of {args.tokens} tokens")
    if args.tokens > text.config["max_position_embeddings"]:
        raise Mistake(f"--tokens: the model's longest text is "
                      f"{text.config['max_position_embeddings']}")
    print(f"Bits per byte, {len(text.ids)} documents:\n")
    print(table(*measure(binaries, args.model, text, args.tokens, args.near), args.near, rows))


if __name__ == "__main__":
    files.run_main(main)
