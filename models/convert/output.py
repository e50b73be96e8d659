"""Writes a servable folder: safetensors shard by shard, and the folder as a whole or not at all."""

import contextlib
import json
import os
import shutil
import struct

from models.convert.errors import ConvertError


def check_new(path):
    """Raises ConvertError unless a folder can be made there."""
    if os.path.lexists(path):
        raise ConvertError(f"{path}: exists already; name a new folder or remove this one")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise ConvertError(f"{path}: the folder {parent}, in which to make it, does not exist")


@contextlib.contextmanager
def new_folder(path):
    """A folder under a temporary name beside `path`; gets that name if all goes well, else goes."""
    check_new(path)
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    temporary = os.path.join(parent, f".{name}.partial-{os.getpid()}")
    with _naming(temporary):
        os.mkdir(temporary)
    try:
        yield temporary
        with _naming(path):
            # Renaming would replace a folder that has come meanwhile, if it is empty.
            check_new(path)
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_space(path, count):
    parent = os.path.dirname(os.path.abspath(path))
    free = shutil.disk_usage(parent).free
    if free < count:
        raise ConvertError(f"{path}: needs {count} bytes, its disk has {free} free")


@contextlib.contextmanager
def _naming(where):
    try:
        yield
    except OSError as error:
        raise ConvertError(f"{where}: {error.strerror or error}") from None


def plan_shards(sizes, shard_bytes):
    """Lists of names of at most `shard_bytes` each, in order; a larger tensor stands alone."""
    shards, filled = [[]], 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def shard_names(count):
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def write_shard(path, tensors, pieces, progress):
    """`tensors`: {name: (dtype, shape, bytes)}; `pieces(name)` yields a tensor's bytes.

    Calls `progress(name, bytes)` after each piece. The file is on the disk when this returns.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, count) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # Data begin at a multiple of 8.
    with _naming(path), open(path, "xb", buffering=0) as file:
        _write(file, struct.pack("<Q", len(text)) + text)
        for name, (_, _, count) in tensors.items():
            with _naming(f"{path}: tensor {name}"):
                _write_tensor(file, name, pieces(name), count, progress)
        os.fsync(file.fileno())


def _write_tensor(file, name, pieces, count, progress):
    written = 0
    for piece in pieces:
        _write(file, piece)
        written += len(piece)
        progress(name, len(piece))
    assert written == count, (name, written, count)


def _write(file, data):
    view = memoryview(data)
    while view:
        view = view[file.write(view):]


def write_json(path, content):
    with _naming(path), open(path, "x", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def write_index(folder, shards):
    """model.safetensors.index.json of {file name: {tensor: bytes}}; nothing for a single file."""
    if len(shards) == 1:
        return
    total = sum(sum(sizes.values()) for sizes in shards.values())
    weight_map = {name: file for file, sizes in shards.items() for name in sizes}
    write_json(os.path.join(folder, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": weight_map})


def copy_files(files, folder):
    for name, source in files.items():
        with _naming(source):
            shutil.copyfile(source, os.path.join(folder, name))
