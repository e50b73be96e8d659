"""Bits per byte of a model folder on a text file.

    python3 -m models.train.evaluate --model models/demo --text validation.txt

Documents are closed by lines `<|endoftext|>` and scored each on its own, from <s> to the last
token of its text; longer ones in pieces of --length tokens, each piece from nothing but <s>.
Bits per byte = negative log-likelihood in nats / ln 2 / bytes of UTF-8.
"""

import argparse
import math
import os

import sentencepiece
import torch
import torch.nn.functional as F

from models.reference import mesa_solver
from models.reference.model import load_model
from models.train import files
from models.train.prepare import read_documents


@torch.no_grad()
def document_nats(model, ids, length):
    total = 0.0
    for begin in range(0, len(ids), length):
        piece = torch.tensor([[1] + ids[begin : begin + length]])
        logits = model(piece[:, :-1])[0].double()
        total += float(F.cross_entropy(logits, piece[0, 1:], reduction="sum"))
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--length", type=int, default=4095, help="tokens of a piece")
    args = parser.parse_args()
    try:
        model, _ = load_model(args.model)
        tokenizer = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(args.model, "tokenizer.model"))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise files.Mistake(f"{args.model}: not a model that can be scored: {error}") from error
    mesa_solver.options = mesa_solver.Options(steps=30)
    sums = {"short": [0, 0.0, 0, 0], "long": [0, 0.0, 0, 0]}  # documents, nats, bytes, tokens
    for text in filter(None, read_documents(args.text)):
        ids = tokenizer.encode(text)
        group = sums["short" if len(text) < 4000 else "long"]
        for i, x in enumerate((1, document_nats(model, ids, args.length),
                               len(text.encode("utf-8")), len(ids))):
            group[i] += x
    if not any(group[2] for group in sums.values()):
        raise files.Mistake(f"{args.text}: empty, no text in it")
    sums["all"] = [a + b for a, b in zip(sums["short"], sums["long"])]
    for name, (documents, nats, size, tokens) in sums.items():
        if size:
            print(f"{name}: {documents} documents, {size} bytes, {tokens} tokens, "
                  f"{nats / math.log(2) / size:.4f} bits per byte, "
                  f"{nats / tokens:.4f} nats per token")


if __name__ == "__main__":
    files.run_main(main)
