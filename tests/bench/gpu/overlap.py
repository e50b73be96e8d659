"""What must hold of the machine code of kernels that may begin before the one before them has ended: see
kernels/device.cuh. From compute capability 9.0 on each waits once, touches no memory before but for weights that it
reads, lets the next kernel begin only then, and reads nothing as what nobody writes while a kernel runs.
"""

import re

_GLOBAL = {"LDG", "LD", "STG", "ST", "ATOM", "ATOMG", "RED", "REDG", "LDGSTS", "UBLKCP"}

# (kernel, loads of weights or prefetches that it has at least before it waits)
EARLY = (
    (r"RmsNormKernel<", 2),
    (r"FewRowsBf16Kernel<1, Bf16Weights<true>", 16),
    (r"FewRowsBf16Kernel<1, Bf16Weights<false>", 1),
    (r"FewRowsBf16Kernel<1, QuantWeights<\(DType\)3>", 8),
    (r"FewRowsBf16Kernel<1, QuantWeights<\(DType\)4>", 8),
    (r"FusedBf16Kernel<true, PlainOutputs", 2),
    (r"FusedBf16Kernel<true, GatedOutputs<", 2),
    (r"FusedBf16Kernel<false, GatedOutputs<", 16),
)
# Has the compiler's own table of sines. A step begins with it, so it is launched as usual.
MAY_READ_CONSTANTS = "EmbedKernel<"


def _kind(instruction):
    return instruction.opcode.split(".")[0]


def faults(arch, name, kernel):
    """What is wrong with a kernel, as lines."""
    code = kernel.instructions
    waits = [i for i, instruction in enumerate(code) if _kind(instruction) == "ACQBULK"]
    begins = [i for i, instruction in enumerate(code) if _kind(instruction) == "PREEXIT"]
    if int(arch.removeprefix("sm_")) < 90:
        return [f"{name}: waits where nothing overlaps"] if waits or begins else []
    if len(waits) != 1 or len(begins) != 1:
        return [f"{name}: waits at {len(waits)} places and lets the next kernel begin at {len(begins)}, not at one"]
    found = []
    if begins[0] < waits[0]:
        found.append(f"{name}: lets the next kernel begin before it has waited")
    early = [instruction for instruction in code[:waits[0]] if _kind(instruction) in _GLOBAL]
    prefetches = sum(instruction.opcode.startswith("CCTL") for instruction in code[:waits[0]])
    least = next((loads for pattern, loads in EARLY if re.match(pattern, name)), None)
    if least is None and early:
        found.append(f"{name}: {early[0].opcode} before it has waited")
    if least is not None:
        if any(_kind(instruction) not in ("LDG", "LD") for instruction in early):
            found.append(f"{name}: not only loads before it has waited")
        if len(early) + prefetches < least:
            found.append(f"{name}: {len(early) + prefetches} loads of weights before it has waited, not {least}")
    if not name.startswith(MAY_READ_CONSTANTS) and any("CONSTANT" in instruction.opcode for instruction in code):
        found.append(f"{name}: reads as if nobody wrote while it runs")
    return found
