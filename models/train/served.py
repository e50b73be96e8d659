"""The server's own engine, for measurements: the built client and server as processes.

`packrat logits` scores texts token by token, `packrat_server` generates and is timed. Both come from
`./dev build`; where they lie is what Bazel says, or --bin.
"""

import json
import math
import os
import subprocess
import tempfile
import threading

import torch

from models.reference import safetensors_io
from models.train.data import load_tokenizer, piece_bytes
from models.train.files import Mistake
from models.train.prepare import read_documents

_LOGITS_BYTES = 128 << 20  # of one answer of `packrat logits`, where it holds several texts


def add_arguments(parser):
    parser.add_argument("--bin", help="folder with server/packrat_server and server/client/packrat "
                        "(default: what `bazel info bazel-bin` says)")


class Binaries:
    def __init__(self, folder=None):
        folder = folder or _bazel_bin()
        self.server = os.path.join(folder, "server", "packrat_server")
        self.client = os.path.join(folder, "server", "client", "packrat")
        for path in (self.server, self.client):
            if not os.path.exists(path):
                raise Mistake(f"{path}: no such file; build it with ./dev build, or name its folder "
                              "with --bin")

    def run_client(self, *arguments):
        run = subprocess.run([self.client, *arguments], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, encoding="utf-8", check=False)
        if run.returncode:
            raise Mistake(f"packrat {arguments[0]}: {run.stderr or run.stdout}")
        return run.stdout

    def token_nats(self, model, texts, vocab_size, solver=()):
        """Per text (ids that begin with <s>) the float64 nats of each token but the first.

        solver: flags of `packrat logits`, e.g. ("--cg_tolerance", "1e-6").
        """
        results = [None] * len(texts)
        # Texts of like length go together: the shorter ones are padded, where nothing sees it.
        order = sorted((i for i in range(len(texts)) if len(texts[i]) > 1),
                       key=lambda i: len(texts[i]))
        while order:
            longest = len(texts[order[-1]]) - 1
            count = max(1, _LOGITS_BYTES // (4 * vocab_size * longest))
            rows, order = order[-count:], order[:-count]
            batch = torch.tensor([texts[i][:-1] + [0] * (longest + 1 - len(texts[i]))
                                  for i in rows], dtype=torch.int32)
            for i, logits in zip(rows, self._logits(model, batch, solver)):
                targets = torch.tensor(texts[i][1:])
                results[i] = torch.nn.functional.cross_entropy(
                    logits[: len(targets)].double(), targets, reduction="none")
        empty = torch.zeros(0, dtype=torch.float64)
        return [empty if nats is None else nats for nats in results]

    def _logits(self, model, ids, solver):
        with tempfile.TemporaryDirectory() as folder:
            tokens, output = (os.path.join(folder, name) for name in ("tokens", "logits"))
            safetensors_io.save(tokens, {"input_ids": ids})
            self.run_client("logits", "--model", model, "--tokens", tokens, "--output", output,
                            *solver)
            return safetensors_io.load(output)["logits"]


class Server:
    """packrat_server on free ports: `with Server(binaries, folder) as server`."""

    def __init__(self, binaries, model, *flags):
        self._binaries = binaries
        self._process = subprocess.Popen(
            [binaries.server, "--model=" + model, "--listen=127.0.0.1:0",
             "--http_listen=127.0.0.1:0", "--log_format=json", "--drain_delay=0s", *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if '"message":"ready"' in line:
                break
        else:
            raise Mistake(f"{model}: the server does not start: {''.join(lines[-3:])}")
        self._address = "127.0.0.1:%d" % json.loads(lines[0])["grpc_port"]
        # A line for each request: the server drops them where nobody reads.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._process.terminate()
        self._process.wait()

    def json(self, command, *arguments):
        return json.loads(self._binaries.run_client(command, "--json",
                                                    "--address=" + self._address, *arguments))

    def state_bytes(self, tokens):
        """Of a sequence of so many tokens, as the server accounts for them."""
        state = self.json("info")["state"]
        return (int(state["fixed_bytes"]) + int(state["window_bytes"]) +
                round(state["bytes_per_token"] * tokens))


class Text:
    """The documents of a file as token ids of a model folder, and the bytes of each id."""

    def __init__(self, model, documents):
        with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        self.vocab_size, self.bos = self.config["vocab_size"], self.config["bos_token_id"]
        tokenizer = load_tokenizer(model)
        self.piece_bytes = piece_bytes(tokenizer, self.vocab_size).double()
        self.documents = documents
        self.ids = [[self.bos] + tokenizer.encode(text) for text in documents]
        # SentencePiece may put a space before a text, which the first piece's bytes then count.
        self._added_space = len(tokenizer.encode("a", out_type=str)[0]) - 1

    def bytes_of(self, ids):
        """float64: bytes of every id but the first, <s>, at a text's beginning."""
        sizes = self.piece_bytes[torch.tensor(ids[1:], dtype=torch.long)]
        sizes[:1] -= self._added_space
        return sizes


def read_text(path, at_least=1, at_most=None, count=None):
    """Documents of a text file with a number of characters in that range, the first `count`."""
    documents = []
    for text in read_documents(path):
        if at_least <= len(text) and (at_most is None or len(text) <= at_most):
            documents.append(text)
            if len(documents) == count:
                break
    if not documents:
        raise Mistake(f"{path}: no document of {at_least} characters or more" +
                      (f" and {at_most} or fewer" if at_most else ""))
    return documents


def bits(nats, size):
    return nats / math.log(2) / size


def score(binaries, model, documents, solver=()):
    """(bits per byte, bytes) of documents, each from <s>, in pieces of the model's longest text."""
    text = Text(model, documents)
    longest = text.config["max_position_embeddings"]
    pieces = [[text.bos] + ids[begin : begin + longest - 1]
              for ids in text.ids for begin in range(1, len(ids), longest - 1)]
    nats = sum(float(n.sum()) for n in binaries.token_nats(model, pieces, text.vocab_size, solver))
    size = sum(len(document.encode("utf-8")) for document in documents)
    return bits(nats, size), size


def _bazel_bin():
    run = subprocess.run(["bazel", "info", "bazel-bin"], stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, encoding="utf-8", check=False)
    if run.returncode:
        raise Mistake("bazel does not say where the binaries are; run ./dev build in the "
                      "repository's root, or name their folder with --bin")
    return run.stdout.strip()
