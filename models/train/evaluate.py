"""Bits per byte of a model folder on a text file.

    python3 -m models.train.evaluate --model models/demo --text validation.txt

Documents are closed by lines `<|endoftext|>` and scored each on its own, from <s> to the last
token of its text; longer ones in pieces of --length tokens, each piece from nothing but <s>. All the
same as `packrat perplexity` does.
Bits per byte = negative log-likelihood in nats / ln 2 / bytes of UTF-8.
"""

import argparse
import json
import math
import os

import sentencepiece
import torch
import torch.nn.functional as F

from models.reference import mesa_solver
from models.reference.model import load_model
from models.train import files
from models.train.data import piece_bytes
from models.train.prepare import read_documents


_LENGTH = 4095


@torch.no_grad()
def document_nats(model, ids, length, bos=1):
    """Of ids; without `bos` (None), of all but the first of each piece."""
    total = 0.0
    for begin in range(0, len(ids), length):
        piece = torch.tensor([([] if bos is None else [bos]) + ids[begin : begin + length]])
        if piece.shape[1] < 2:
            continue
        logits = model(piece[:, :-1])[0].double()
        total += float(F.cross_entropy(logits, piece[0, 1:], reduction="sum"))
    return total


def puts_bos(folder):
    """Whether the server puts <s> before a text."""
    path = os.path.join(folder, "tokenizer_config.json")
    if not os.path.exists(path):
        return True
    with open(path, encoding="utf-8") as f:
        return json.load(f).get("add_bos_token") is not False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--length", type=int, help="tokens of a piece (default: 4095, or the "
                        "model's max_position_embeddings where that is less)")
    parser.add_argument("--bos", choices=("true", "false"), help="whether pieces begin with <s>; "
                        "without it, their first token is not scored (default: as the server would "
                        "put it before a text)")
    args = parser.parse_args()
    try:
        model, config = load_model(args.model)
        tokenizer = sentencepiece.SentencePieceProcessor(
            model_file=os.path.join(args.model, "tokenizer.model"))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise files.Mistake(f"{args.model}: not a model that can be scored: {error}") from error
    mesa_solver.options = mesa_solver.Options(steps=30)
    context = config.get("max_position_embeddings") or _LENGTH
    length = args.length if args.length is not None else min(_LENGTH, context)
    if not 1 <= length <= context:
        raise files.Mistake(f"--length: {length}; must be 1 to {context}, the model's context")
    bos = 1 if args.bos == "true" or (args.bos is None and puts_bos(args.model)) else None
    sizes = piece_bytes(tokenizer, tokenizer.get_piece_size())
    added_space = len(tokenizer.encode("a", out_type=str)[0]) - 1
    sums = {"short": [0, 0.0, 0, 0], "long": [0, 0.0, 0, 0]}  # documents, nats, bytes, tokens
    for text in filter(None, read_documents(args.text)):
        ids = tokenizer.encode(text)
        group = sums["short" if len(text) < 4000 else "long"]
        firsts = [] if bos else ids[::length]
        size = len(text.encode("utf-8")) - int(sum(sizes[i] for i in firsts)) + (
            added_space if firsts else 0)
        for i, x in enumerate((1, document_nats(model, ids, length, bos), size,
                               len(ids) - len(firsts))):
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
