"""Batches of packed documents from token files, with a position that can be saved and restored."""

import numpy as np
import torch


class Stream:
    """Windows of one token file in a new random order every epoch."""

    def __init__(self, path, length, seed, held_out):
        """held_out: windows at the file's end that training never sees."""
        self.tokens = np.fromfile(path, dtype=np.uint16)
        self.length, self.seed = length, seed
        self.usable = len(self.tokens) - held_out * (length + 1)
        # One window is given up so that each epoch may cut the file elsewhere.
        self.windows = (self.usable - 1) // length - 1
        if self.windows < 1:
            raise ValueError(f"{path}: too short for windows of {length} tokens")
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
        return {"rows": self.rows, "taken": [s.taken for s in self.streams]}

    def load_state(self, state):
        self.rows = state["rows"]
        for stream, taken in zip(self.streams, state["taken"]):
            stream.taken = taken
