"""What NVIDIA's disassembler tells of machine code: resources, basic blocks and loops of every kernel."""

import dataclasses
import glob
import os
import re
import subprocess

# After these, control may be elsewhere.
_ENDS_BLOCK = {"BRA", "BRX", "JMP", "JMX", "EXIT", "RET", "CALL", "BSYNC", "WARPSYNC", "BPT"}
_WIDE_LOAD = re.compile(r"(LDG|LDGSTS)\.([\w.]*\.)?(128|256)\b|UBLKCP")
# By a number that is only known at run time. Up to 32 bits: the divisor becomes a float, to be inverted; more:
# a function of the compiler's.
_INTEGER_DIVISION = re.compile(r"I2FP?\.([\w.]*\.)?RP\b|CALL.*__cuda_sm20_(div|rem)_[us]\d+")

_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)(.*?);")
_LABEL = re.compile(r"(\.L_x_\d+):")
_SECTION = re.compile(r"\t\.section\t([^,]+)")
_ATTRIBUTE = re.compile(r"\t//----- nvinfo : (EIATTR_\w+)")
_WORD = re.compile(r"\s+/\*[0-9a-f]+\*/\s+\.word\s+(?:index@\(([\w$]+)\)|(0x[0-9a-f]+))")


@dataclasses.dataclass
class Instruction:
    opcode: str
    operands: str
    block: int  # Number of its basic block.

    @property
    def is_wide_load(self):
        """Of at least 16 bytes a lane from device memory, to registers or to shared memory."""
        return bool(_WIDE_LOAD.match(self.opcode))

    @property
    def is_copy(self):
        """A wide load to shared memory, for which nobody waits before it is needed."""
        return self.is_wide_load and not self.opcode.startswith("LDG.")

    @property
    def is_tensor(self):
        """A product on tensor cores."""
        return self.opcode.startswith("HMMA.")

    @property
    def is_local(self):
        """Reads or writes what did not fit into registers."""
        return self.opcode.split(".")[0] in ("LDL", "STL")

    @property
    def is_integer_division(self):
        return bool(_INTEGER_DIVISION.match(self.opcode + self.operands))


@dataclasses.dataclass
class Kernel:
    instructions: list
    loops: list  # (first, last): the farthest instruction that branches back to `first` is `last`.
    registers: int = 0
    threads: int = 0  # Of __launch_bounds__; 0: it has none.
    stack: int = 0

    def code(self, loop):
        return self.instructions[loop[0]:loop[1] + 1]

    def streaming_loops(self, copies=False, tensor=False):
        """The loops around wide loads that have no other such loop in them, and of which no other has more:
        what is left over of an unrolled loop does not count. copies: all those around loads to shared memory. tensor:
        instead of the most loads, the most products on tensor cores."""
        loads = {}
        for i, instruction in enumerate(self.instructions):
            around = [loop for loop in self.loops if loop[0] <= i <= loop[1]]
            if around and (instruction.is_copy if copies else instruction.is_wide_load):
                inner = min(around, key=lambda loop: loop[1] - loop[0])
                loads[inner] = loads.get(inner, 0) + 1
        inner = [loop for loop in loads
                 if not any(loop != other and loop[0] <= other[0] and other[1] <= loop[1] for other in loads)]
        if tensor:
            loads = {loop: sum(i.is_tensor for i in self.code(loop)) for loop in inner}
        most = max((loads[loop] for loop in inner), default=0)
        return sorted(loop for loop in inner if copies or loads[loop] == most)

    def rounds(self, loop):
        """How many instructions the loops directly in a loop have, in order."""
        inside = [other for other in self.loops if loop[0] <= other[0] and other[1] <= loop[1] and other != loop]
        return [last - first + 1 for first, last in inside
                if not any((first, last) != other and other[0] <= first and last <= other[1] for other in inside)]


def wide_loads_of_a_block(instructions):
    """The most that any basic block has."""
    of_block = {}
    for instruction in instructions:
        if instruction.is_wide_load:
            of_block[instruction.block] = of_block.get(instruction.block, 0) + 1
    return max(of_block.values(), default=0)


def _parse_code(lines):
    instructions, at_label, block, fresh = [], {}, 0, True
    for line in lines:
        if match := _INSTRUCTION.match(line):
            block += fresh
            instructions.append(Instruction(match[1], match[2], block))
            fresh = match[1].split(".")[0] in _ENDS_BLOCK
        elif match := _LABEL.match(line):
            at_label[match[1]] = len(instructions)
            fresh = True
    last = {}
    for i, instruction in enumerate(instructions):
        target = re.search(r"`\((\.L_x_\d+)\)", instruction.operands)
        # What branches to itself stands behind the end.
        if target and instruction.opcode.split(".")[0] == "BRA" and at_label.get(target[1], i) < i:
            last[at_label[target[1]]] = i
    return Kernel(instructions, sorted(last.items()))


def parse(text):
    """{mangled name: Kernel} of what `nvdisasm FILE.cubin` prints."""
    code, words, section, attribute = {}, {}, "", ""
    for line in text.splitlines():
        if match := _SECTION.match(line):
            section, attribute = match[1], ""
            if section.startswith(".text."):
                code[section[6:]] = []
        elif section.startswith(".text."):
            code[section[6:]].append(line)
        elif match := _ATTRIBUTE.match(line):
            attribute = match[1]
        elif section.startswith(".nv.info") and (match := _WORD.match(line)):
            words.setdefault((section, attribute), []).append(match[1] or int(match[2], 16))
    kernels = {name: _parse_code(lines) for name, lines in code.items()}
    for attribute, field in (("EIATTR_REGCOUNT", "registers"), ("EIATTR_FRAME_SIZE", "stack")):
        pairs = words.get((".nv.info", attribute), [])
        for name, value in zip(pairs[::2], pairs[1::2]):
            if name in kernels:
                setattr(kernels[name], field, value)
    for name, kernel in kernels.items():
        x, y, z = words.get((".nv.info." + name, "EIATTR_MAX_THREADS"), (0, 1, 1))
        kernel.threads = x * y * z
    return kernels


def find_nvdisasm():
    """The disassembler of the toolkit, or of the tests' Python packages; None without one."""
    toolkit = os.environ.get("CUDA_PATH", "/usr/local/cuda") + "/bin/nvdisasm"
    packages = os.environ.get("PACKRAT_PYTHON_ENV", "/nonexistent") + "/lib/python3*/site-packages/nvidia"
    for path in [toolkit] + sorted(glob.glob(packages + "/*/bin/nvdisasm")):
        if os.access(path, os.X_OK):
            return path
    return None


def _short(name):
    """Without namespaces and parameters."""
    depth, end = 0, len(name)
    for i, character in enumerate(name):
        if character in "<(":
            if character == "(" and depth == 0 and not name[i:].startswith("(anonymous"):
                end = i
                break
            depth += 1
        elif character in ">)":
            depth -= 1
    name = name[:end].removeprefix("void ")
    for part in ("packrat::gpu::", "packrat::", "(anonymous namespace)::"):
        name = name.replace(part, "")
    return name.replace("__nv_bfloat16", "bf16").replace("> >", ">>")


def short_names(names):
    """{mangled: as in the source, without namespaces and parameters}"""
    run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                         check=True)
    return {name: _short(long) for name, long in zip(names, run.stdout.splitlines())}


def read(nvdisasm, cubin):
    """{name as in the source: Kernel}"""
    run = subprocess.run([nvdisasm, cubin], capture_output=True, text=True, check=True)
    kernels = parse(run.stdout)
    names = short_names(list(kernels))
    return {names[name]: kernel for name, kernel in kernels.items()}
