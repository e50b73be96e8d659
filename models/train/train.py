"""Trains a packrat model on token files made by models/train/prepare.py.

    python3 -m models.train.train --config config.json --data DATA --output RUN --minutes 90

Stops with RUN/checkpoint.pt written and the learning rate decayed to zero after --minutes, at
--until HH:MM (UTC), or after --steps; run the same command again to go on after an interruption.
With --steps an interrupted run ends with the very weights of an uninterrupted one. Progress is
printed, and written to RUN/log.jsonl (models/train/run_log.py).

Exit codes: 0 done, 75 a piece of --piece_minutes is done and more is to come, 130 interrupted and
saved, 1 a mistake or a failure, told in one line; the last good checkpoint is then kept.
"""

import argparse
import json
import math
import os
import signal
import time

import numpy as np
import torch
import torch.nn.functional as F

from models.reference import families, mesa_solver
from models.reference.model import Model
from models.train import checkpoint, files
from models.train.data import KINDS, Mixture, Stream, load_tokenizer, piece_bytes
from models.train.files import Mistake
from models.train.initial import initialise
from models.train.optimizer import Optimizer
from models.train.run_log import NAME as LOG_NAME, RunLog
from models.train.schedule import Schedule, next_time

CHECKPOINT = "checkpoint.pt"
EXIT_DONE, EXIT_PIECE, EXIT_INTERRUPTED = 0, 75, 130
_HELD_OUT = 8  # windows of each stream, for the loss printed now and then
# Settings that a run may be resumed with other values of, at the price of another run.
_REMEMBERED = ("steps", "minutes", "until", "batch", "length", "seed", "muon_lr", "adam_lr",
               "warmup", "plain_start", "plain_end", "bf16")


# What the server knows in such a file: whatever else is there is misspelt.
_FIELDS = {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
           "layer_types", "norm_eps", "rope_theta", "tie_word_embeddings",
           "max_position_embeddings", "bos_token_id", "eos_token_id", "torch_dtype", "dtype"}
_MIXER_FIELDS = {
    "rat": {"num_heads", "num_groups", "chunk_size"},
    "local_attention": {"num_heads", "num_kv_heads", "window_size"},
    "attention": {"num_heads", "num_kv_heads"},
    "mesa": {"num_heads", "head_dim", "conv_size", "lambda_lower_bound", "use_output_gate"},
}


def refuse_unknown(config):
    """Raises ValueError for a field of a packrat config that nobody reads."""
    if config.get("model_type") != "packrat":
        return
    unknown = [name for name in config if name not in _FIELDS and name not in _MIXER_FIELDS]
    for kind, known in _MIXER_FIELDS.items():
        mixer = config.get(kind)
        if kind in config.get("layer_types", []) and isinstance(mixer, dict):
            unknown += [f"{kind}.{name}" for name in mixer if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: unknown here")


def read_model(path):
    """(config, model without weights) of a config.json."""
    try:
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        if not isinstance(config, dict):
            raise ValueError("not an object")
        model = Model(families.parse_config(config))
        refuse_unknown(config)
        return config, model
    except OSError:
        raise
    except KeyError as error:
        raise Mistake(f"{path}: lacks {error}") from error
    except (ValueError, TypeError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        raise Mistake(f"{path}: not a config of a model: {error}") from error


class Trainer:
    def __init__(self, args):
        self.args = args
        self.config, self.model = read_model(args.config)
        self.device = torch.device(args.device)
        torch.manual_seed(args.seed)
        initialise(self.model, args.seed)
        self.model.to(self.device)
        self.optimizer = Optimizer(self.model, args.muon_lr, args.adam_lr)
        vocab_size = self.config["vocab_size"]
        self.data = Mixture([Stream(os.path.join(args.data, kind + ".bin"), args.length,
                                    args.seed + i, _HELD_OUT, vocab_size)
                             for i, kind in enumerate(KINDS)], args.seed)
        self.bytes_of = piece_bytes(load_tokenizer(args.data), vocab_size)
        self.step, self.tokens, self.begun, self.average = 0, 0, time.time(), None
        self.path = os.path.join(args.output, CHECKPOINT)
        rate = self._load() if os.path.exists(self.path) else 0.0
        self.schedule = Schedule(args, self.begun, rate)
        self.log = RunLog(os.path.join(args.output, LOG_NAME))

    def loss(self, rows):
        """Mean negative log-likelihood in nats per token, and bytes per token."""
        rows = rows.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bool(self.args.bf16)):
            logits = self.model(rows[:, :-1])
        targets = rows[:, 1:].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets)
        return loss, float(self.bytes_of[targets.cpu()].mean())

    def train_step(self, progress):
        """(loss, gradient's norm, bits per byte). Raises Mistake where one is not finite."""
        mesa_solver.options = mesa_solver.Options(steps=self.schedule.cg_steps(progress), block=32)
        rows = self.data.batch(self.args.batch, self.schedule.share(progress))
        loss, size = self.loss(rows)
        self._check_finite("loss", float(loss))
        loss.backward()
        norm = self.optimizer.step(self.schedule.next_rate(progress))
        self._check_finite("gradient's norm", norm)
        self.step += 1
        self.tokens += self.args.batch * self.args.length
        return float(loss), norm, float(loss) / math.log(2) / size

    def _check_finite(self, what, value):
        if not math.isfinite(value):
            raise Mistake(f"step {self.step}: the {what} is {value}; "
                          f"{checkpoint.last_good(self.path)}; try lower learning rates")

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
                 "rng": torch.get_rng_state(), "tokens": self.tokens, "rate": self.schedule.rate,
                 "average": self.average, "settings": self._settings()}
        checkpoint.save(self.path, state)

    def _load(self):
        """Takes over the checkpoint; returns the learning rate's factor of its last step."""
        state = checkpoint.load(self.path, self.config)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state(state["optimizer"])
        self.data.load_state(state["data"])
        torch.set_rng_state(state["rng"])
        self.step, self.average = state["step"], state.get("average")
        self.tokens = state.get("tokens", self.step * self.args.batch * self.args.length)
        # --until counts from the first start; --minutes counts time trained, not time lost.
        self.begun = state["begun"] if self.args.until else time.time() - state["elapsed"]
        changed = [f"{name} {value} instead of {state['settings'][name]}"
                   for name, value in self._settings().items()
                   if value != state.get("settings", {}).get(name, value)]
        print(f"resumed {self.path} at step {self.step}" +
              (f", with {', '.join(changed)}" if changed else ""), flush=True)
        return state.get("rate", 0.0)

    def _settings(self):
        return {name: getattr(self.args, name) for name in _REMEMBERED}

    def run(self):
        """Trains to the end, an interruption or the end of a piece. Returns the exit code."""
        parameters = sum(p.numel() for p in self.model.parameters())
        print(f"{parameters / 1e6:.2f} M parameters, torch {torch.__version__}, "
              f"{torch.get_num_threads()} threads, {self.device}", flush=True)
        self.log.write("begin", self.step, parameters=parameters, settings=self._settings())
        interrupted = []
        signal.signal(signal.SIGTERM, lambda *_: interrupted.append(True))
        signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
        first, started = self.step, time.time()
        since, tokens, saved = started, self.tokens, started
        while True:
            progress = self.schedule.progress(self.step)
            piece_over = self.args.piece_minutes and \
                time.time() - started > 60 * self.args.piece_minutes
            if progress >= 1 or interrupted or piece_over or self.step == self.args.stop_after:
                break
            loss, norm, bits = self.train_step(progress)
            self.average = bits if self.average is None else 0.95 * self.average + 0.05 * bits
            if self.step % self.args.log_every == 0:
                now = time.time()
                self._report(progress, loss, norm, (self.tokens - tokens) / (now - since))
                since, tokens = now, self.tokens
            if time.time() - saved > 60 * self.args.save_minutes:
                self.save()
                self._report_held_out()
                saved = time.time()
        why, code = (("done", EXIT_DONE) if progress >= 1 else
                     ("interrupted", EXIT_INTERRUPTED) if interrupted else
                     ("piece done", EXIT_PIECE))
        if self.step > first:
            self.save()
            if not interrupted:
                self._report_held_out()
        self.log.write("end", self.step, why=why)
        print(f"{why} at step {self.step}: {self.path}", flush=True)
        return code

    def _report(self, progress, loss, norm, speed):
        seconds = time.time() - self.begun
        left = seconds * (1 - progress) / max(progress, 1e-6)
        print(f"step {self.step} {100 * progress:.1f}% loss {loss:.3f} bits/byte {self.average:.3f} "
              f"norm {norm:.2f} {speed:.0f} tokens/s, {left / 60:.0f} min left", flush=True)
        self.log.write("train", self.step, tokens=self.tokens, loss=round(loss, 5),
                       bits_per_byte=round(self.average, 5), norm=round(norm, 4),
                       rate=round(self.schedule.rate, 6), tokens_per_second=round(speed, 1),
                       seconds=round(seconds, 1))

    def _report_held_out(self):
        bits = dict(zip(KINDS, self.evaluate()))
        print(f"step {self.step} held out: " +
              " ".join(f"{kind} {value:.3f}" for kind, value in bits.items()) + " bits/byte",
              flush=True)
        self.log.write("held_out", self.step, tokens=self.tokens,
                       bits_per_byte={kind: round(value, 5) for kind, value in bits.items()},
                       seconds=round(time.time() - self.begun, 1))


def _number(kind, accepts, range_text):
    """A type of argparse."""
    def parse(text):
        value = kind(text)
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{text} is not {range_text}")
        return value
    parse.__name__ = "whole number" if kind is int else "number"  # in argparse's own messages
    return parse


_positive = _number(int, lambda x: x >= 1, "1 or more")
_count = _number(int, lambda x: x >= 0, "0 or more")
_more_than_zero = _number(float, lambda x: 0 < x < math.inf, "more than 0")
_share = _number(float, lambda x: 0 <= x <= 1, "from 0 to 1")


def _device(name):
    try:
        torch.zeros(1, device=name)
        return name
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{name!r}: {str(error).splitlines()[0]}") from error


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="config.json of the model")
    parser.add_argument("--data", required=True, help="folder made by prepare.py")
    parser.add_argument("--output", required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=_more_than_zero, default=90.0,
                        help="of training (default 90)")
    parser.add_argument("--until", help="HH:MM in UTC, instead of --minutes")
    parser.add_argument("--piece_minutes", type=_more_than_zero, default=0.0,
                        help="leave with exit code 75 after so long; the same command goes on")
    parser.add_argument("--steps", type=_positive, default=0, help="instead of a time budget")
    parser.add_argument("--stop_after", type=int, default=-1, help="interrupt at this step")
    parser.add_argument("--device", type=_device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=_count, default=0, help="0: all cores that it may use")
    parser.add_argument("--bf16", type=int, choices=(0, 1), default=1, help="matrix products in bfloat16")
    parser.add_argument("--batch", type=_positive, default=4, help="sequences a step")
    parser.add_argument("--length", type=_positive, default=1024, help="tokens of a sequence")
    parser.add_argument("--muon_lr", type=_more_than_zero, default=0.01)
    parser.add_argument("--adam_lr", type=_more_than_zero, default=0.003)
    parser.add_argument("--warmup", type=_positive, default=50, help="steps")
    parser.add_argument("--plain_start", type=_share, default=0.4, help="share of plain stories")
    parser.add_argument("--plain_end", type=_share, default=0.9, help="the same, at the end")
    parser.add_argument("--save_minutes", type=_more_than_zero, default=5.0)
    parser.add_argument("--log_every", type=_positive, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.until:
        try:
            next_time(args.until)
        except ValueError:
            parser.error(f"--until: {args.until!r} is not HH:MM")
    return args


def main():
    args = parse_arguments()
    files.make_folder(args.output)
    # By itself Debian's torch takes one of two cores.
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    return Trainer(args).run()


if __name__ == "__main__":
    files.run_main(main)
