"""How many blocks of a kernel a multiprocessor holds at once, and that they are as many as the kernel was written
for. The compiler keeps registers to what __launch_bounds__ say, but knows nothing of the dynamic shared memory that a
launch asks for.
"""

import dataclasses
import re

REGISTERS = 65536  # Of a multiprocessor.
RESERVED_SHARED = 1024  # That each block takes beside what it asks for.
# Of a multiprocessor: threads, blocks, bytes of shared memory.
LIMITS = {
    "sm_80": (2048, 32, 164 << 10),
    "sm_90": (2048, 32, 228 << 10),
    "sm_100": (2048, 32, 228 << 10),
    "sm_120": (1536, 24, 100 << 10),
}


@dataclasses.dataclass
class Rule:
    pattern: str  # Of the kernel's name: of one kernel, as in hot_loops.py.
    blocks: int  # That __launch_bounds__ ask for.
    shared: int = 0  # Bytes of dynamic shared memory of a block; 0: little, or it goes by the model's shape.
    # Where shared memory leaves room for fewer. 0: the launch takes another kernel there.
    fewer: dict = dataclasses.field(default_factory=dict)

    def least(self, arch):
        return self.fewer.get(arch, self.blocks)


def _prompts(kernel, end):
    """Of 16 queries, on tensor cores 32, by the channels of a head: 32, 64, 128, 256."""
    few = {"sm_80": 1, "sm_120": 1}
    return [Rule(rf"{kernel}<{layout}>{end}", blocks, shared, fewer) for layout, blocks, shared, fewer in (
        ("bf16, TensorLayout<4", 3, 30224, {}),
        ("bf16, TensorLayout<8", 3, 46608, {"sm_120": 2}),
        ("bf16, TensorLayout<16", 3, 79376, {"sm_80": 2, "sm_90": 2, "sm_100": 2, "sm_120": 1}),
        ("bf16, AttendLayout<32", 3, 85904, {**few, "sm_90": 2, "sm_100": 2}),
        ("float, AttendLayout<4", 2, 17296, {}),
        ("float, AttendLayout<8", 2, 27536, {}),
        ("float, AttendLayout<16", 2, 48016, {}),
        ("float, AttendLayout<32", 2, 85904, few))]


RULES = (
    Rule(r"RatDecodeKernel<bf16, TensorLayout<16>", 3, 8432),
    Rule(r"RatDecodeKernel<bf16, TensorLayout<8>", 4, 6128),
    Rule(r"RatDecodeKernel<bf16, TensorLayout<4>", 4, 4976),
    Rule(r"RatDecodeKernel<bf16, AttendLayout<32>", 4, 15584),
    Rule(r"RatDecodeKernel<float,", 2, 15584),
    *_prompts("RatPromptKernel", ">"),
    # The shared memory of several queries to a key goes by how many they are.
    Rule(r"AttentionDecodeKernel<bf16, TensorLayout<16>, 1>", 3, 8432),
    Rule(r"AttentionDecodeKernel<bf16, TensorLayout<8>, 1>", 4, 6128),
    Rule(r"AttentionDecodeKernel<bf16, TensorLayout<4>, 1>", 4, 4976),
    Rule(r"AttentionDecodeKernel<bf16, TensorLayout<\d+>, 4>", 3),
    Rule(r"AttentionDecodeKernel<bf16, AttendLayout<32>, 1>", 4, 15584),
    Rule(r"AttentionDecodeKernel<bf16, AttendLayout<32>, 2>", 3),
    Rule(r"AttentionDecodeKernel<float,", 2),
    *_prompts("AttentionPromptKernel", ">"),
    Rule(r"RatPlusDecodeKernel<bf16, TensorLayout<\d+>", 3, 9456),
    Rule(r"RatPlusDecodeKernel<bf16, AttendLayout<32>", 3, 16608),
    Rule(r"RatPlusDecodeKernel<float, AttendLayout<\d+>", 2, 16608),
    Rule(r"RatPlusPromptKernel<bf16, AttendLayout<32>", 2, 85904, {"sm_80": 1, "sm_120": 1}),
    *_prompts("RatPlusPromptKernel", ">"),
    # By the width of keys: gpu-resources.md.
    Rule(r"GatedDeltaKernel<", 4),
    Rule(r"ScanKernel<", 4),
    Rule(r"MesaDecodeKernel<128, float, true>", 2, 114176, {"sm_80": 0, "sm_120": 0}),
    Rule(r"MesaDecodeKernel<128, bf16, true>", 2, 62976, {"sm_120": 0}),
    Rule(r"MesaDecodeKernel<128, float, false>", 2, 48640),
    Rule(r"MesaDecodeKernel<128, bf16, false>", 2, 30208),
    Rule(r"MesaScanKernel<64,", 3, 33280, {"sm_120": 2}),
    Rule(r"MesaScanKernel<128,", 3, 45568, {"sm_120": 2}),
    Rule(r"MesaScanKernel<256,", 3, 70144, {"sm_80": 2, "sm_120": 1}),
    Rule(r"MesaSolveKernel<128, float>", 2, 82048, {"sm_120": 1}),
    Rule(r"MesaSolveKernel<128, bf16>", 2, 77952, {"sm_120": 1}),
    Rule(r"FewRowsBf16Kernel<", 2, 33792),
    Rule(r"FusedBf16Kernel<", 2, 49152),
    Rule(r"ManyRowsBf16Kernel<Bf16Weights<", 2, 98304, {"sm_80": 1, "sm_120": 1}),
    Rule(r"ManyRowsBf16Kernel<QuantWeights<\(DType\)3>", 2, 101376, {"sm_80": 1, "sm_120": 1}),  # int8
    Rule(r"ManyRowsBf16Kernel<QuantWeights<\(DType\)4>", 2, 87040, {"sm_80": 1, "sm_120": 1}),  # int4
    Rule(r"sampling::SampleKernel", 2, 24896),
)


def rule_of(name):
    """The rule for a kernel, or None."""
    return next((rule for rule in RULES if re.match(rule.pattern, name)), None)


def blocks(arch, registers, threads, shared=0):
    """That a multiprocessor holds."""
    most_threads, most_blocks, all_shared = LIMITS[arch]
    warps = -(-threads // 32)
    # Registers are given to a warp 256 at a time.
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    return min(by_registers, most_threads // (warps * 32), most_blocks, all_shared // (shared + RESERVED_SHARED))


def faults(arch, name, kernel):
    """What is wrong with a kernel (sass.Kernel), as lines."""
    rule = rule_of(name)
    if rule is None:
        return []
    by_code = blocks(arch, kernel.registers, kernel.threads)
    if by_code < rule.blocks:
        return [f"{name}: {kernel.registers} registers and {kernel.threads} threads leave room for {by_code} blocks, "
                f"not {rule.blocks}"]
    there = min(blocks(arch, kernel.registers, kernel.threads, rule.shared), rule.blocks)
    if rule.least(arch) not in (there, 0):
        return [f"{name}: {rule.shared} bytes of shared memory leave room for {there} blocks, "
                f"not {rule.least(arch)}"]
    return []


def promising_kernels(source):
    """Names of the kernels in a source whose __launch_bounds__ ask for a number of blocks."""
    names = set()
    for match in re.finditer(r"__launch_bounds__\(", source):
        depth, end, asks = 1, match.end(), False
        while depth > 0:
            asks |= source[end] == "," and depth == 1
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        if asks:
            names.add(re.match(r"\s*(\w+)\s*\(", source[end:])[1])
    return names
