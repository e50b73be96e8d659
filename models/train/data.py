"""Batches of packed documents from token files, with a position that can be saved and restored."""

import os
import zlib

import numpy as np
import sentencepiece
import torch

from models.train.files import Mistake

KINDS = ("plain", "books")  # DATA/plain.bin, DATA/books.bin


class Stream:
    """Windows of one token file in a new random order every epoch."""

    def __init__(self, path, length, seed, held_out, vocab_size):
        """held_out: windows at the file's end that training never sees."""
        if os.path.getsize(path) % 2:
            raise Mistake(f"{path}: damaged, not a whole number of 16-bit tokens")
        self.tokens = np.fromfile(path, dtype=np.uint16)
        self.path, self.length, self.seed = path, length, seed
        self.usable = len(self.tokens) - held_out * (length + 1)
        # One window is given up so that each epoch may cut the file elsewhere.
        self.windows = (self.usable - 1) // length - 1
        if self.windows < 1:
            raise Mistake(f"{path}: too short: {len(self.tokens)} tokens, windows of {length} need "
                          f"{held_out * (length + 1) + 2 * length + 1} or more")
        if self.tokens.max() >= vocab_size:
            raise Mistake(f"{path}: token {self.tokens.max()}, but the config has a vocab_size of "
                          f"{vocab_size}")
        self.checksum = zlib.crc32(self.tokens)
        self.taken = 0
        self._epoch, self._order, self._shift = -1, None, 0

    def next(self):
        """The next window: length + 1 tokens (inputs and their successors)."""
        epoch, index = divmod(self.taken, self.windows)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(self.windows)
            self._shift = int(rng.integers(self.length))
        self.taken += 1
        return self._cut(self._shift + int(self._order[index]) * self.length)

    def held_out(self):
        return [self._cut(begin) for begin in
                range(self.usable, len(self.tokens) - self.length, self.length + 1)]

    def _cut(self, begin):
        return self.tokens[begin : begin + self.length + 1].astype(np.int64)


class Mixture:
    """Rows from the first stream with probability `share`, else from the second."""

    def __init__(self, streams, seed):
        self.streams, self.seed, self.rows = streams, seed, 0

    def batch(self, size, share):
        rows = []
        for _ in range(size):
            coin = np.random.default_rng([self.seed, 7, self.rows]).random()
            rows.append(self.streams[0 if coin < share else 1].next())
            self.rows += 1
        return torch.from_numpy(np.stack(rows))

    def state(self):
        return {"rows": self.rows, "taken": [s.taken for s in self.streams],
                "checksums": [s.checksum for s in self.streams]}

    def load_state(self, state):
        own = [s.checksum for s in self.streams]
        for stream, old, new in zip(self.streams, state.get("checksums", own), own):
            if old != new:
                raise Mistake(f"{stream.path}: not the text that the checkpoint was trained on; "
                              "choose another --output, or the --data of before")
        self.rows = state["rows"]
        for stream, taken in zip(self.streams, state["taken"]):
            stream.taken = taken


def load_tokenizer(folder):
    path = os.path.join(folder, "tokenizer.model")
    if not os.path.exists(path):
        raise Mistake(f"{path}: no such file")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise Mistake(f"{path}: not a SentencePiece model") from error


def piece_bytes(tokenizer, vocab_size):
    """float32 (vocab_size): bytes of text that each token stands for, 0 for control tokens."""
    sizes = torch.zeros(vocab_size)
    for i in range(min(vocab_size, tokenizer.get_piece_size())):
        if tokenizer.is_byte(i):
            sizes[i] = 1
        elif not tokenizer.is_control(i):
            sizes[i] = len(tokenizer.id_to_piece(i).replace("\u2581", " ").encode("utf-8"))
    return sizes
