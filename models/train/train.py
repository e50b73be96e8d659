"""Trains a packrat model on token files made by models/train/prepare.py.

    python3 -m models.train.train --config config.json --data DATA --output RUN --minutes 90

Stops with RUN/checkpoint.pt written and the learning rate decayed to zero after --minutes, at
--until HH:MM (UTC), or after --steps; run the same command again to go on after an interruption.
With --steps an interrupted run ends with the very weights of an uninterrupted one.
"""

import argparse
import datetime
import json
import math
import os
import signal
import time

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

from models.reference import families, mesa_solver
from models.reference.model import Model
from models.train.data import Mixture, Stream
from models.train.initial import initialise
from models.train.optimizer import Optimizer

CHECKPOINT = "checkpoint.pt"
_HELD_OUT = 8  # windows of each stream, for the loss printed now and then


class Schedule:
    """Progress 0..1 by steps, or by wall clock towards a deadline; and what depends on it."""

    def __init__(self, args, begun):
        self.steps, self.begun = args.steps, begun
        if args.until:
            self.deadline = _next_time(args.until)
        else:
            self.deadline = begun + 60 * args.minutes
        self.plain_start, self.plain_end = args.plain_start, args.plain_end
        self.warmup = args.warmup

    def progress(self, step):
        if self.steps:
            return min(1.0, step / self.steps)
        return min(1.0, (time.time() - self.begun) / max(1.0, self.deadline - self.begun))

    def rate(self, step, progress):
        """Warm-up, flat, then linear to zero over the last 60 %."""
        return min(1.0, (step + 1) / self.warmup, (1 - progress) / 0.6)

    def share(self, progress):
        """More plain stories towards the end: what is learned last is remembered best."""
        return self.plain_start + (self.plain_end - self.plain_start) * progress

    def cg_steps(self, progress):
        return 5 if progress < 0.7 else 8


def _next_time(text):
    hour, minute = map(int, text.split(":"))
    now = datetime.datetime.now(datetime.timezone.utc)
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if then <= now:
        then += datetime.timedelta(days=1)
    return then.timestamp()


class Trainer:
    def __init__(self, args):
        self.args = args
        with open(args.config, encoding="utf-8") as f:
            self.config = json.load(f)
        self.device = torch.device(args.device)
        torch.manual_seed(args.seed)
        self.model = Model(families.parse_config(self.config))
        initialise(self.model, args.seed)
        self.model.to(self.device)
        self.optimizer = Optimizer(self.model, args.muon_lr, args.adam_lr)
        streams = [Stream(os.path.join(args.data, name + ".bin"), args.length, args.seed + i,
                          _HELD_OUT) for i, name in enumerate(("plain", "books"))]
        self.data = Mixture(streams, args.seed)
        self.bytes_of = _piece_bytes(os.path.join(args.data, "tokenizer.model"),
                                     self.config["vocab_size"])
        self.step, self.begun = 0, time.time()
        self.path = os.path.join(args.output, CHECKPOINT)
        if os.path.exists(self.path):
            self._load()
        self.schedule = Schedule(args, self.begun)

    def loss(self, rows):
        """Mean negative log-likelihood in nats per token, and bytes per token."""
        rows = rows.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bool(self.args.bf16)):
            logits = self.model(rows[:, :-1])
        targets = rows[:, 1:].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets)
        return loss, float(self.bytes_of[targets.cpu()].mean())

    def train_step(self, progress):
        mesa_solver.options = mesa_solver.Options(steps=self.schedule.cg_steps(progress), block=32)
        rows = self.data.batch(self.args.batch, self.schedule.share(progress))
        loss, size = self.loss(rows)
        if not math.isfinite(float(loss)):
            raise SystemExit(f"step {self.step}: the loss is {float(loss)}; "
                             f"the last good state is {self.path}")
        loss.backward()
        norm = self.optimizer.step(self.schedule.rate(self.step, progress))
        self.step += 1
        return float(loss), size, norm

    @torch.no_grad()
    def evaluate(self):
        """Bits per byte on held-out windows of both streams."""
        results = []
        for stream in self.data.streams:
            loss, size = self.loss(torch.from_numpy(np.stack(stream.held_out())))
            results.append(float(loss) / math.log(2) / size)
        return results

    def save(self):
        state = {"config": self.config, "step": self.step, "elapsed": time.time() - self.begun,
                 "begun": self.begun, "model": self.model.state_dict(),
                 "optimizer": self.optimizer.state(), "data": self.data.state(),
                 "rng": torch.get_rng_state()}
        torch.save(state, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)  # a kill leaves the old file or the new one

    def _load(self):
        try:
            state = torch.load(self.path, map_location="cpu")
        except Exception as error:  # torch raises several kinds, by version and kind of damage
            raise SystemExit(f"{self.path}: damaged, not a checkpoint ({error}); remove it to "
                             "begin anew") from error
        if state["config"] != self.config:
            different = sorted(k for k in set(state["config"]) | set(self.config)
                               if state["config"].get(k) != self.config.get(k))
            raise SystemExit(f"{self.path}: made with another config (differs in "
                             f"{', '.join(different)}); choose another --output")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state(state["optimizer"])
        self.data.load_state(state["data"])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]
        # --until counts from the first start; --minutes counts time trained, not time lost.
        self.begun = state["begun"] if self.args.until else time.time() - state["elapsed"]
        print(f"resumed {self.path} at step {self.step}", flush=True)

    def run(self):
        parameters = sum(p.numel() for p in self.model.parameters())
        print(f"{parameters / 1e6:.2f} M parameters, torch {torch.__version__}, "
              f"{torch.get_num_threads()} threads, {self.device}", flush=True)
        interrupted = []
        signal.signal(signal.SIGTERM, lambda *_: interrupted.append(True))
        signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
        average, since, tokens, saved = None, time.time(), 0, time.time()
        while True:
            progress = self.schedule.progress(self.step)
            if progress >= 1.0 or interrupted or self.step == self.args.stop_after:
                break
            loss, size, norm = self.train_step(progress)
            bits = loss / math.log(2) / size
            average = bits if average is None else 0.95 * average + 0.05 * bits
            tokens += self.args.batch * self.args.length
            if self.step % self.args.log_every == 0:
                now = time.time()
                left = (now - self.begun) * (1 - progress) / max(progress, 1e-6)
                print(f"step {self.step} {100 * progress:.1f}% loss {loss:.3f} "
                      f"bits/byte {average:.3f} norm {norm:.2f} "
                      f"{tokens / (now - since):.0f} tokens/s, {left / 60:.0f} min left", flush=True)
                since, tokens = now, 0
            if time.time() - saved > 60 * self.args.save_minutes:
                self.save()
                plain, books = self.evaluate()
                print(f"step {self.step} held out: plain {plain:.3f} books {books:.3f} bits/byte",
                      flush=True)
                saved = time.time()
        self.save()
        print(f"{'interrupted' if interrupted else 'done'} at step {self.step}: {self.path}",
              flush=True)


def _piece_bytes(path, vocab_size):
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=path)
    sizes = torch.zeros(vocab_size)
    for i in range(min(vocab_size, tokenizer.get_piece_size())):
        if tokenizer.is_byte(i):
            sizes[i] = 1
        elif not tokenizer.is_control(i):
            sizes[i] = len(tokenizer.id_to_piece(i).replace("\u2581", " ").encode("utf-8"))
    return sizes


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="config.json of the model")
    parser.add_argument("--data", required=True, help="folder made by prepare.py")
    parser.add_argument("--output", required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--until", help="HH:MM in UTC, instead of --minutes")
    parser.add_argument("--steps", type=int, default=0, help="instead of a time budget")
    parser.add_argument("--stop_after", type=int, default=-1, help="interrupt at this step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--bf16", type=int, default=1, help="matrix products in bfloat16")
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a sequence")
    parser.add_argument("--muon_lr", type=float, default=0.01)
    parser.add_argument("--adam_lr", type=float, default=0.003)
    parser.add_argument("--warmup", type=int, default=50, help="steps")
    parser.add_argument("--plain_start", type=float, default=0.4, help="share of plain stories")
    parser.add_argument("--plain_end", type=float, default=0.9, help="the same, at the end")
    parser.add_argument("--save_minutes", type=float, default=5.0)
    parser.add_argument("--log_every", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def main():
    args = parse_arguments()
    os.makedirs(args.output, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    Trainer(args).run()


if __name__ == "__main__":
    main()
