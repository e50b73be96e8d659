"""The log of a training run: JSON lines, appended to, so that it survives being killed.

    {"event": "begin", "step", "parameters", "settings"}
    {"event": "train", "step", "tokens", "loss", "bits_per_byte", "norm", "rate",
     "tokens_per_second", "seconds", "time"}
    {"event": "held_out", "step", "tokens", "bits_per_byte": {"plain", "books"}, "seconds", "time"}
    {"event": "end", "step", "why"}

`tokens` and `seconds` count from the run's first start, without the pauses; `loss` is of one step,
in nats per token; `bits_per_byte` of a train line is the mean of the last 20 steps or so.
"""

import datetime
import json
import os
import re

from models.train.files import Mistake

NAME = "log.jsonl"


class RunLog:
    def __init__(self, path):
        self._file = open(path, "ab+")  # pylint: disable=consider-using-with
        # What a kill left of a line must not spoil the next one.
        if self._file.tell() and not _ends_with_newline(self._file):
            self._file.write(b"\n")

    def write(self, event, step, **fields):
        record = {"event": event, "step": step, **fields}
        record["time"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        try:
            self._file.write(json.dumps(record).encode("utf-8") + b"\n")
            self._file.flush()
        except OSError as error:
            raise Mistake(f"{self._file.name}: cannot be written: {error.strerror}") from error


def _ends_with_newline(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read(path, tokens_a_step=0):
    """Records of a log that describe its last, unbroken history, oldest first.

    Steps that were trained twice, since a kill came before the next checkpoint, count once. Also
    reads what train.py prints; the text says nothing of tokens, so that is up to tokens_a_step.
    """
    records = []
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            record = _json_record(line) if line.startswith("{") else _text_record(line)
            if not record:
                continue
            if record["event"] == "begin":
                records = [r for r in records if r["step"] <= record["step"]]
            if tokens_a_step:
                record.setdefault("tokens", record["step"] * tokens_a_step)
            records.append(record)
    return records


def _json_record(line):
    try:
        record = json.loads(line)
    except ValueError:
        return None  # half a line
    return record if "event" in record and "step" in record else None


_TRAIN = re.compile(r"step (\d+) .*loss ([\d.]+) bits/byte ([\d.]+)")
_HELD_OUT = re.compile(r"step (\d+) held out: (.*) bits/byte")
_RESUMED = re.compile(r"resumed .* at step (\d+)")


def _text_record(line):
    if match := _HELD_OUT.match(line):
        words = match[2].split()
        return {"event": "held_out", "step": int(match[1]),
                "bits_per_byte": dict(zip(words[::2], map(float, words[1::2])))}
    if match := _TRAIN.match(line):
        return {"event": "train", "step": int(match[1]), "loss": float(match[2]),
                "bits_per_byte": float(match[3])}
    if match := _RESUMED.match(line):
        return {"event": "begin", "step": int(match[1])}
    return None
