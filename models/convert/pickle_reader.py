"""Reads the pickle inside a PyTorch file without importing or calling anything that it names.

A pickle is a program: its GLOBAL opcode names any function of any installed module, its REDUCE
calls it. This interpreter knows the opcodes that data needs. A global is looked up in the table
below and nowhere else; what stands there are functions of this file, which build dictionaries,
tuples and descriptions of tensors. Any other name is refused before anything is done with it.
"""

import dataclasses
import struct
from typing import Optional, Tuple

from models.convert.errors import ConvertError, shown

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
               "U8": 1, "BOOL": 1}
_STORAGES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16",
             "BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32",
             "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
             "UntypedStorage": None}
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
           "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


@dataclasses.dataclass(frozen=True)
class Storage:
    key: str  # The member data/KEY of the archive.
    dtype: Optional[str]  # As safetensors calls it; None: bytes, the tensor says what they are.
    count: int  # Elements, or bytes where there is no dtype.

    @property
    def bytes(self):
        return self.count * (_ITEM_BYTES[self.dtype] if self.dtype else 1)


@dataclasses.dataclass(frozen=True)
class Tensor:
    storage: Storage
    dtype: str
    offset: int  # Elements, as strides.
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]

    @property
    def item_bytes(self):
        return _ITEM_BYTES[self.dtype]

    @property
    def count(self):
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self):
        return self.count * self.item_bytes

    @property
    def span(self):
        """Elements of the storage from the tensor's first to its last, both included."""
        if self.count == 0:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))

    @property
    def contiguous(self):
        return self.count == self.span and list(self._sorted_strides()) == list(self._dense())

    def _sorted_strides(self):
        return (stride for size, stride in zip(self.shape, self.strides) if size != 1)

    def _dense(self):
        step, dense = 1, []
        for size in reversed([size for size in self.shape if size != 1]):
            dense.append(step)
            step *= size
        return reversed(dense)


@dataclasses.dataclass(frozen=True)
class _Known:
    """An allowed global; `build` is what REDUCE and NEWOBJ may do with it, if anything."""
    name: str
    build: object = None
    value: object = None


def _sizes(values, what):
    if not isinstance(values, tuple) or len(values) > 16:
        raise ValueError(f"{what} of a tensor is no tuple of sizes")
    return tuple(_size(value, what) for value in values)


def _size(value, what):
    if type(value) is not int or not 0 <= value < 1 << 60:
        raise ValueError(f"{what} of a tensor is no number of elements")
    return value


def _tensor(storage, offset, shape, strides, *_):
    """Of torch._utils._rebuild_tensor and _v2; what follows is about gradients."""
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise ValueError("a tensor without a typed storage")
    return _make_tensor(storage, storage.dtype, offset, shape, strides)


def _tensor_v3(storage, offset, shape, strides, _grad, _hooks, dtype, *_):
    if not isinstance(storage, Storage) or not isinstance(dtype, _Known) or not dtype.value:
        raise ValueError("a tensor without a storage or a dtype")
    return _make_tensor(storage, dtype.value, offset, shape, strides)


def _make_tensor(storage, dtype, offset, shape, strides):
    shape, strides = _sizes(shape, "shape"), _sizes(strides, "stride")
    if len(shape) != len(strides):
        raise ValueError("shape and strides of a tensor differ in length")
    return Tensor(storage, dtype, _size(offset, "offset"), shape, strides)


def _parameter(tensor, *_):
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter that holds no tensor")
    return tensor


def _from_type(function, _type, arguments, _state):
    if not isinstance(function, _Known) or function.build not in (_tensor, _tensor_v3):
        raise ValueError("a tensor rebuilt by something else than a tensor's function")
    return function.build(*arguments)


def _dict(*_):
    # Items come by SETITEMS. The arguments are default factories, which nobody here calls, or
    # Python 2's lists of items, which no file of today has.
    return {}


def _bytes(text, encoding):
    if encoding != "latin1":
        raise ValueError("bytes in an encoding other than latin1")
    return text.encode("latin1")


def _allowed():
    builders = {
        ("collections", "OrderedDict"): _dict,
        ("collections", "defaultdict"): _dict,
        ("collections", "Counter"): _dict,
        ("easydict", "EasyDict"): _dict,  # The RAT authors keep their settings in one.
        ("torch", "Size"): lambda sizes: tuple(sizes),
        ("torch", "device"): lambda *name: name,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
        ("torch", "Tensor"): None,
        ("torch.nn.parameter", "Parameter"): None,
        ("builtins", "set"): lambda items=(): list(items),
        ("builtins", "dict"): _dict,
        ("builtins", "int"): None,  # Factories of a defaultdict.
        ("builtins", "list"): None,
        ("_codecs", "encode"): _bytes,
    }
    table = {key: _Known(".".join(key), build) for key, build in builders.items()}
    for name, dtype in _STORAGES.items():
        for module in ("torch", "torch.storage", "torch.cuda"):
            table[module, name] = _Known(f"{module}.{name}", None, ("storage", dtype))
    for name, dtype in _DTYPES.items():
        table["torch", name] = _Known(f"torch.{name}", None, dtype)
    for (module, name), known in list(table.items()):
        if module == "builtins":
            table["__builtin__", name] = known
    return table


_ALLOWED = _allowed()
_MARK = object()


class _Machine:
    """The stack, the memo and the opcodes. A damaged pickle raises one of what load() catches."""

    def __init__(self, data):
        self.data = data
        self.position = 0
        self.stack = []
        self.memo = {}

    def run(self):
        opcodes = _OPCODES
        while True:
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                return self.pop()
            if code not in opcodes:
                raise ValueError(f"opcode 0x{code:02x}, which no data needs")
            opcodes[code](self)

    def take(self, count):
        end = self.position + count
        if end > len(self.data):
            raise ValueError("the pickle ends inside a value")
        piece = self.data[self.position:end]
        self.position = end
        return piece

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self):
        end = self.data.index(b"\n", self.position)
        piece = self.data[self.position:end]
        self.position = end + 1
        return piece.decode("utf-8")

    def text(self, form):
        return self.take(self.number(form)).decode("utf-8", "surrogatepass")

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def pop_to_mark(self):
        items = []
        while self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        self.stack.pop()
        return items[::-1]

    def put_global(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise ValueError("a global whose name is no text")
        if (module, name) not in _ALLOWED:
            raise ConvertError(f"refused: the pickle names {shown(module)}.{shown(name)}, which is "
                               "no part of a state dict; nothing of it was run. If the file is "
                               "yours, save the weights alone: torch.save({'task': state_dict}, "
                               "FILE), and settings as plain dictionaries and numbers")
        self.push(_ALLOWED[module, name])

    def call(self):
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Known) or function.build is None:
            raise ValueError("a call of something that cannot be called")
        if not isinstance(arguments, tuple):
            raise ValueError("arguments that are no tuple")
        self.push(function.build(*arguments))

    def build(self):
        self.pop()  # Attributes, such as a state dict's _metadata.
        if not isinstance(self.stack[-1], (dict, Tensor)):
            raise ValueError("attributes of something that has none")

    def set_items(self, items):
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items for something that is no dictionary")
        for key, value in zip(items[::2], items[1::2]):
            # Hashing a tuple of tuples of tuples ... would exhaust the machine's stack.
            if key is not None and not isinstance(key, (str, int, float, bytes)):
                raise ValueError("a dictionary with a key that is neither text nor a number")
            target[key] = value

    def extend(self, items):
        if type(self.stack[-1]) is not list:
            raise ValueError("elements for something that is no list")
        self.stack[-1].extend(items)

    def persistent(self):
        kind, known, key, _device, count = self.pop()
        if kind != "storage" or not isinstance(known, _Known) or type(key) is not str:
            raise ValueError("a persistent id that is no storage")
        if not isinstance(known.value, tuple):
            raise ValueError(f"{known.name} is no type of storage")
        self.push(Storage(key, known.value[1], _size(count, "storage")))

    def memoize(self, index):
        self.memo[index] = self.stack[-1]

    def recall(self, index):
        if index not in self.memo:
            raise ValueError(f"entry {index} of the memo was never stored")
        self.push(self.memo[index])


def _tuple(count):
    def run(m):
        items = [m.pop() for _ in range(count)]
        m.push(tuple(items[::-1]))
    return run


def _stack_global(m):
    name, module = m.pop(), m.pop()
    m.put_global(module, name)


_OPCODES = {
    ord(code): run for code, run in {
        "\x80": lambda m: m.number("<B"),  # PROTO
        "\x95": lambda m: m.number("<Q"),  # FRAME
        "(": lambda m: m.push(_MARK),
        "0": lambda m: m.pop(),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
        "G": lambda m: m.push(m.number(">d")),
        "X": lambda m: m.push(m.text("<I")),
        "\x8c": lambda m: m.push(m.text("<B")),
        "\x8d": lambda m: m.push(m.text("<Q")),
        "U": lambda m: m.push(m.take(m.number("<B")).decode("latin1")),
        "B": lambda m: m.push(bytes(m.take(m.number("<I")))),
        "C": lambda m: m.push(bytes(m.take(m.number("<B")))),
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.pop_to_mark())),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "]": lambda m: m.push([]),
        "a": lambda m: m.extend([m.pop()]),
        "e": lambda m: m.extend(m.pop_to_mark()),
        "}": lambda m: m.push({}),
        "s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
        "u": lambda m: m.set_items(m.pop_to_mark()),
        "\x8f": lambda m: m.push([]),  # A set, read as a list.
        "\x90": lambda m: m.extend(m.pop_to_mark()),
        "q": lambda m: m.memoize(m.number("<B")),
        "r": lambda m: m.memoize(m.number("<I")),
        "\x94": lambda m: m.memoize(len(m.memo)),
        "h": lambda m: m.recall(m.number("<B")),
        "j": lambda m: m.recall(m.number("<I")),
        "c": lambda m: m.put_global(m.line(), m.line()),
        "\x93": _stack_global,
        "R": lambda m: m.call(),
        "\x81": lambda m: m.call(),  # NEWOBJ
        "b": lambda m: m.build(),
        "Q": lambda m: m.persistent(),
    }.items()
}


def load(data):
    """The object of a pickle: dictionaries, lists, tuples, text, numbers and Tensor descriptions.

    Raises ConvertError: a global that is not in the table, or a pickle that is damaged.
    """
    machine = _Machine(data)
    try:
        return machine.run()
    except (ValueError, TypeError, IndexError, AttributeError, struct.error) as error:
        raise ConvertError(f"damaged pickle at byte {machine.position}: {error}") from None
