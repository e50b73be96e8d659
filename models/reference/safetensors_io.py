"""Reads and writes safetensors files with numpy and torch alone.

Debian has no python3-safetensors. The format: 8 bytes little endian header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the raw little-endian data.
"""

import json
import os
import struct

import numpy as np
import torch

# numpy has no bfloat16: its bits travel as int16 and are reinterpreted by torch.
_DTYPES = {
    "F64": (torch.float64, np.float64),
    "F32": (torch.float32, np.float32),
    "F16": (torch.float16, np.float16),
    "BF16": (torch.bfloat16, np.int16),
    "I64": (torch.int64, np.int64),
    "I32": (torch.int32, np.int32),
    "I16": (torch.int16, np.int16),
    "I8": (torch.int8, np.int8),
    "U8": (torch.uint8, np.uint8),
    "BOOL": (torch.bool, np.bool_),
}
_NAMES = {dtype: name for name, (dtype, _) in _DTYPES.items()}
_MAX_HEADER_BYTES = 100 << 20


def load(path):
    """Returns {name: tensor} in the stored dtypes. Raises ValueError naming file and tensor."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        prefix = f.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if length < 2 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError(f"{path}: not a safetensors file (header length {length})")
        header = json.loads(f.read(length).decode("utf-8"))
    header.pop("__metadata__", None)
    data_start = 8 + length
    data = np.memmap(path, dtype=np.uint8, mode="r") if size > data_start else np.zeros(0, np.uint8)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: tensor {name}: unknown dtype {entry['dtype']}")
        dtype, stored = _DTYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        count = int(np.prod(entry["shape"], dtype=np.int64))
        itemsize = np.dtype(stored).itemsize
        if not 0 <= begin <= end <= size - data_start or end - begin != count * itemsize:
            raise ValueError(f"{path}: tensor {name}: offsets {begin}..{end} do not fit its shape")
        raw = np.array(data[data_start + begin : data_start + end])  # a copy, aligned and writable
        tensor = torch.from_numpy(raw.view(stored).reshape(entry["shape"]))
        tensors[name] = tensor.view(dtype) if dtype == torch.bfloat16 else tensor
    return tensors


def load_folder(folder):
    """Loads model.safetensors, or the shards named by model.safetensors.index.json."""
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return load(os.path.join(folder, "model.safetensors"))
    with open(index, encoding="utf-8") as f:
        shards = sorted(set(json.load(f)["weight_map"].values()))
    tensors = {}
    for shard in shards:
        tensors.update(load(os.path.join(folder, shard)))
    return tensors


def save(path, tensors, metadata=None):
    """Writes {name: tensor} in their own dtypes, names sorted, atomically (rename)."""
    header = {"__metadata__": dict(metadata)} if metadata else {}
    blobs = []
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        blob = bits.numpy().tobytes()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # data starts at a multiple of 8
    temporary = path + ".tmp"
    with open(temporary, "wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for blob in blobs:
            f.write(blob)
    os.replace(temporary, path)
