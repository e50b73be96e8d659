"""Converts a checkpoint of the RAT or RAT+ authors to a folder that the server loads.

    python3 -m models.convert.rat --checkpoint 190734.pth --output rat-1.3b [--tokenizer DIR]

The checkpoint: a file of torch.save whose `task` entry is the state dict (or a bare state dict),
names with or without `_orig_mod.` and `module.`. Nothing of the file is run. See README.md in this folder.
"""

import argparse
import os
import resource
import signal
import sys
import time

import numpy as np

from models.convert import output, rat_config, rat_plus_config, tokenizer
from models.convert.errors import ConvertError, shown
from models.convert.pickle_reader import Tensor
from models.convert.rat_plus_config import Stacked
from models.convert.torch_file import TorchFile

_WEIGHTS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def state_dict(file):
    """{name: Tensor} without `_orig_mod.`, and what else the checkpoint says of itself."""
    top = file.objects
    if not isinstance(top, dict):
        raise ConvertError(f"{file.path}: holds a {type(top).__name__}, not a dictionary")
    if isinstance(top.get("task"), dict):
        raw, rest = top["task"], top
    elif any(str(key).endswith(rat_config.EMBEDDING) for key in top):
        raw, rest = top, {}
    else:
        keys = ", ".join(shown(key, 40) for key in list(top)[:10])
        raise ConvertError(f"{file.path}: no entry `task` with a state dict, and no state dict "
                           f"itself; its entries: {keys or 'none'}")
    tensors = {}
    for key, value in raw.items():
        # Left by torch.compile, and by DistributedDataParallel.
        name = str(key).replace("_orig_mod.", "")
        name = name[len("module."):] if name.startswith("module.") else name
        if not isinstance(value, Tensor):
            raise ConvertError(f"{file.path}: tensor {shown(name)}: is a {type(value).__name__}, "
                               "not a tensor")
        if name in tensors:
            raise ConvertError(f"{file.path}: tensor {shown(name)}: there twice, with and without "
                               "_orig_mod. or module.")
        tensors[name] = value
    return tensors, rest.get("config")


def drop_tied_head(file, tensors):
    """Takes out an output matrix that is the embedding once more, as tied models save it."""
    head, embedding = (tensors.get(n) for n in (rat_config.HEAD, rat_config.EMBEDDING))
    if head is None or embedding is None:
        return
    if (head.shape, head.dtype) != (embedding.shape, embedding.dtype):
        return
    file.check(rat_config.EMBEDDING, embedding)
    file.check(rat_config.HEAD, head)
    if file.equal((rat_config.EMBEDDING, embedding), (rat_config.HEAD, head)):
        del tensors[rat_config.HEAD]


def parts(name, tensor):
    """The tensors of the file that it is made of."""
    return tensor.parts if isinstance(tensor, Stacked) else [(name, tensor)]


def check_tensors(file, tensors, config):
    """Every tensor that the config asks for, and no other: shape, dtype, and bytes in the file."""
    shapes = config.shapes()
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise ConvertError(f"{file.path}: tensor {missing[0]}: missing{_others(missing)}")
    surplus = [shown(name) for name in tensors if name not in shapes]
    if surplus:
        raise ConvertError(f"{file.path}: tensor {surplus[0]}: surplus, a {config.TITLE} model has no place "
                           f"for it{_others(surplus)}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ConvertError(f"{file.path}: tensor {name}: has shape {list(tensor.shape)}, must "
                               f"have {list(shape)}")
        if tensor.dtype not in _WEIGHTS:
            raise ConvertError(f"{file.path}: tensor {name}: has dtype {tensor.dtype}; must be "
                               f"{', '.join(_WEIGHTS)}")
        for part in parts(name, tensor):
            file.check(*part)


def _others(names):
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def round_to_bf16(piece):
    """Bytes of float32 to bytes of bfloat16, to nearest, ties to even; NaN stays NaN."""
    bits = np.frombuffer(piece, "<u4")
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, bits >> 16 | 0x40, rounded).astype("<u2").tobytes()


class Progress:
    """Lines on stderr: at most one for each twentieth of the work."""

    def __init__(self, total):
        self._total = max(total, 1)
        self._done, self._shown, self._start = 0, -1, time.monotonic()

    def __call__(self, name, count):
        self._done += count
        twentieth = 20 * self._done // self._total
        if twentieth > self._shown:
            self._shown = twentieth
            seconds = max(time.monotonic() - self._start, 1e-3)
            say(f"{100 * self._done // self._total:3d}% of {self._total / 1e6:.0f} MB, "
                f"{self._done / 1e6 / seconds:.0f} MB/s: {name}")


def say(text):
    print(text, file=sys.stderr, flush=True)


class _Writer:
    """Writes the tensors of one checkpoint to a folder."""

    def __init__(self, file, tensors, names, to_bf16):
        self._file, self._tensors = file, tensors
        self._halved = {n for n in names if to_bf16 and tensors[n].dtype == "F32"}
        self.sizes = {n: tensors[n].bytes // (2 if n in self._halved else 1) for n in names}

    def dtype(self, name):
        return "BF16" if name in self._halved else self._tensors[name].dtype

    def write(self, folder, shard_bytes):
        plan = output.plan_shards(self.sizes, shard_bytes)
        files = output.shard_names(len(plan))
        progress = Progress(sum(self.sizes.values()))
        for file, names in zip(files, plan):
            tensors = {n: (self.dtype(n), self._tensors[n].shape, self.sizes[n]) for n in names}
            output.write_shard(os.path.join(folder, file), tensors, self._pieces, progress)
        output.write_index(folder, {file: {n: self.sizes[n] for n in names}
                                    for file, names in zip(files, plan)})

    def _pieces(self, name):
        for part in parts(name, self._tensors[name]):
            for piece in self._file.pieces(*part):
                yield round_to_bf16(piece) if name in self._halved else piece


def convert(args):
    output.check_new(args.output)
    files = tokenizer.tokenizer_files(args.tokenizer) if args.tokenizer else {}
    with TorchFile(args.checkpoint, check_crc=not args.skip_crc) as file:
        tensors, recorded = state_dict(file)
        drop_tied_head(file, tensors)
        kind = rat_plus_config.RatPlusConfig if rat_plus_config.recognises(tensors) \
            else rat_config.RatConfig
        config = kind(args.checkpoint, tensors, recorded, vars(args))
        check_tensors(file, tensors, config)
        tokenizer.check(files, config.fields["vocab_size"])
        writer = _Writer(file, tensors, list(config.shapes()), args.dtype == "bfloat16")
        dtypes = {writer.dtype(name) for name in config.shapes()}
        config.fields["torch_dtype"] = _WEIGHTS[min(dtypes)] if len(dtypes) == 1 else None
        report(config, writer)
        output.check_space(args.output, sum(writer.sizes.values()))
        with output.new_folder(args.output) as folder:
            writer.write(folder, args.shard_mib << 20)
            output.write_json(os.path.join(folder, "config.json"), config.fields)
            write_tokenizer(files, folder)
    say(f"{args.output}: done; peak memory "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def write_tokenizer(files, folder):
    """The authors train and evaluate without a BOS token, whatever their tokenizer would do."""
    if not files:
        return
    output.copy_files({name: path for name, path in files.items() if name != tokenizer.CONFIG},
                      folder)
    config = {**tokenizer.config_of(files), "add_bos_token": False}
    output.write_json(os.path.join(folder, tokenizer.CONFIG), config)
    say("add_bos_token = false (the authors train and evaluate without one; "
        f"{tokenizer.CONFIG} sets another)")


def report(config, writer):
    f = config.fields
    say(f"from the shapes: {config.summary()}, feed-forward {f['d_ffn']} {f['act_fn']}, vocabulary "
        f"{f['vocab_size']}, output matrix {'tied' if f['tie_embedding'] else 'of its own'}, "
        f"{len(writer.sizes)} tensors")
    for note in config.notes:
        say(note)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python3 -m models.convert.rat",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, help="file of torch.save")
    parser.add_argument("--output", required=True, help="folder to make; must not exist")
    parser.add_argument("--tokenizer", help="tokenizer.model, tokenizer.json or a folder with one, "
                        "copied beside the weights")
    parser.add_argument("--dtype", choices=("stored", "bfloat16"), default="stored",
                        help="bfloat16 rounds float32 weights (default: as stored)")
    parser.add_argument("--shard_mib", type=_positive, default=4096,
                        help="largest weight file (default 4096 MiB)")
    parser.add_argument("--attention", choices=("local", "full"), help="what layers are that are "
                        "not RAT, which have the same shapes (default: what the checkpoint's own "
                        "settings say, else local)")
    parser.add_argument("--skip_crc", action="store_true", help="do not check the checksums of the "
                        "archive, for files saved without them")
    for name in ("num_head", "chunk_size", "window_size", "rope_base", "max_position_embeddings",
                 "bos_token_id", "eos_token_id"):
        parser.add_argument(f"--{name}", type=int, help="of config.json")
    for name in ("dilation_size", "local_size", "initial_size"):
        parser.add_argument(f"--{name}", type=_numbers, help="of RAT+: a number, or one for each "
                            "layer (1,16,4)")
    return parser.parse_args(arguments)


def _positive(text):
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 30:
        raise argparse.ArgumentTypeError("must be 1 to 2^30")
    return int(text)


def _numbers(text):
    numbers = [int(number) for number in text.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def _on_terminate(*_):
    raise ConvertError("terminated")


def main(arguments=None):
    """Exit status: 0 done, 1 an error that was reported, 2 wrong arguments."""
    args = parse(arguments)
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        convert(args)
    except ConvertError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("error: interrupted")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
