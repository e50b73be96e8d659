"""Makes blocks.gguf, tensors of random blocks in every format, and blocks.safetensors, what the `gguf` package
makes of them in float32.

    python3 tests/data/gguf/make_blocks.py

Wants `gguf`, `numpy` and `safetensors`."""
import os

import gguf
import numpy as np
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
FORMATS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
# Where the float16 scales lie in a block; the rest may be any bytes.
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}

random = np.random.default_rng(1)
writer = gguf.GGUFWriter(os.path.join(HERE, "blocks.gguf"), "none")
writer.add_string("a.text", "caf\u00e9")
writer.add_array("a.list", ["x", "", "yz"])
writer.add_array("a.numbers", [1, -2, 3])
writer.add_float32("a.number", 0.375)
writer.add_bool("a.flag", True)
expected = {}
for name in FORMATS:
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = 512 // block if block > 1 else 24
    data = random.integers(0, 256, (2, blocks // 2, size), dtype=np.uint8)
    if name in ("F32", "F16", "BF16"):
        values = random.standard_normal((2, blocks // 2)).astype(np.float32)
        data = gguf.quantize(values, kind)
    else:
        for at in SCALES[name]:
            scales = (random.standard_normal((2, blocks // 2)) * 0.02).astype(np.float16)
            data[:, :, at : at + 2] = scales[..., None].view(np.uint8)
        data = data.reshape(2, -1)
    expected[name] = gguf.dequantize(data, kind).astype(np.float32)
    writer.add_tensor(name, data, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
save_file(expected, os.path.join(HERE, "blocks.safetensors"))
