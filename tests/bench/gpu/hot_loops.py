"""What must hold of the machine code of kernels that stream state or weights through the device: they are to be
bound by the memory, and neither by the instructions that they issue nor by waiting for one load after the other.
"""

import re

from tests.bench.gpu import sass

COPIES = "copies"  # To shared memory: nobody waits for each.

# (kernel, wide loads that a basic block of its loops must have). hot_loops_test.py finds a kernel for every row: so no
# row stands for two, of which one might be renamed and not be missed. All rows of a split of attention are under way
# together; in layouts for less than 128 channels, a lane has fewer of them.
_LANES = ((16, 8), (8, 4), (4, 2))
_ATTEND = tuple(
    (rf"{kernel}Kernel<{layout}<{lanes}>", loads)
    for kernel in ("RatDecode", "AttentionDecode", "RatPlusDecode")
    for layout, sizes in (("float, AttendLayout", ((32, 8), *_LANES)),
                          ("bf16, AttendLayout", ((32, 8),)),
                          ("bf16, TensorLayout", _LANES))
    for lanes, loads in sizes) + tuple(
    (rf"{kernel}PromptKernel<bf16, TensorLayout<{lanes}>", loads)
    for kernel in ("Rat", "RatPlus", "Attention")
    for lanes, loads in _LANES)
HOT = _ATTEND + (
    (r"GatedDeltaKernel<1,", 8),
    (r"ScanKernel<1,", 8),
    (r"FewRowsF32Kernel<\d, true>", 8),
    (r"FewRowsBf16Kernel<\d, Bf16Weights<true>", 8),
    (r"FusedBf16Kernel<true, PlainOutputs", 8),
    (r"FusedBf16Kernel<true, GatedOutputs<", 8),
    (r"FusedBf16Kernel<false, GatedOutputs<", 8),
    (r"FewRowsBf16Kernel<\d, QuantWeights<\(DType\)3>", 8),  # int8
    # int4 has 12 and more, and on sm_120 what makes all lanes meet for the tensor cores stands behind six or seven.
    (r"FewRowsBf16Kernel<\d, QuantWeights<\(DType\)4>", 6),
    (r"FewRowsQuantizedF32Kernel<\d,", 8),
    (r"MesaDecodeKernel<64,", COPIES),
    (r"MesaDecodeKernel<128,", COPIES),
    (r"MesaScanKernel<64,", COPIES),
    (r"MesaScanKernel<128,", COPIES),
    (r"MesaScanKernel<256,", COPIES),
)
# Whose loops multiply on tensor cores.
_TENSOR = re.compile(r"\w+<bf16, TensorLayout<")
# It fills rotary tables as well. Large angles take the slow way through double precision: in every step, but for a few
# numbers of each token.
MAY_USE_LOCAL = ("EmbedKernel<",)


def wanted(name):
    """The second part of a row of HOT, or None."""
    return next((loads for pattern, loads in HOT if re.match(pattern, name)), None)


def loops(name, kernel):
    return kernel.streaming_loops(copies=wanted(name) == COPIES, tensor=bool(_TENSOR.match(name)))


def faults(name, kernel):
    """What is wrong with a kernel, as lines."""
    found = []
    local = sum(i.is_local for i in kernel.instructions)
    if local and not name.startswith(MAY_USE_LOCAL):
        found.append(f"{name}: {local} instructions go to local memory: registers are spilled")
    loads = wanted(name)
    if loads is None:
        return found
    if not loops(name, kernel):
        found.append(f"{name}: no loop with loads of 16 bytes")
    for loop in loops(name, kernel):
        code = kernel.code(loop)
        divisions = sum(i.is_integer_division for i in code)
        if divisions:
            found.append(f"{name}: {divisions} divisions of integers in a loop of {len(code)} instructions")
        most = sass.wide_loads_of_a_block(code)
        if _TENSOR.match(name) and not any(i.is_tensor for i in code):
            found.append(f"{name}: no products on tensor cores in a loop of {len(code)} instructions")
        if loads != COPIES and most < loads:
            found.append(f"{name}: at most {most} loads of 16 bytes are under way together, not {loads}")
    return found


def instructions_per_byte(name, kernel):
    """Of the loop, for each byte that a warp loads by 16 a lane (of values in heads of 32 channels by 8); each
    instruction is counted once. None for kernels that are not listed, or that copy all at once and compute then; for
    prompts, which compute; and for products, of whose loads a third or more are of x, which comes from the caches: what
    streams are the weights."""
    if wanted(name) in (None, COPIES) or not loops(name, kernel):
        return None
    if re.match(r"FewRows|FusedBf16|\w+PromptKernel", name):
        return None
    code = kernel.code(max(loops(name, kernel), key=lambda x: x[1] - x[0]))
    loads = sum(i.is_wide_load for i in code)
    return len(code) / (512 * (2 * loads if "TensorLayout<4>" in name else loads))
