"""Reads a PyTorch zip file (torch.save since 1.6): its objects, and its tensors piece by piece.

The archive holds ROOT/data.pkl and, uncompressed, one member ROOT/data/KEY for each storage. Bytes
of tensors are read where they lie when they are asked for; no more than one piece is in memory.
"""

import os
import struct
import zipfile
import zlib

import numpy as np

from models.convert import pickle_reader
from models.convert.errors import ConvertError, shown

_MAX_PICKLE_BYTES = 256 << 20
_PIECE_BYTES = 16 << 20
_MAX_SPAN_BYTES = 2 << 30  # Of a tensor that is not contiguous, which is read at once.
_OLD_FORMAT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class TorchFile:
    """`objects`: what the pickle says, with pickle_reader.Tensor for each tensor."""

    def __init__(self, path, check_crc=True):
        self.path = path
        self._check_crc = check_crc
        self._checked = set()
        try:
            self._file = open(path, "rb")
        except OSError as error:
            raise ConvertError(f"{path}: {error.strerror}") from None
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._members = self._read_directory()
            self._root = self._find_root()
            self._check_byte_order()
            self.objects = self._load_objects()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def check(self, name, tensor):
        """Raises ConvertError unless all of the tensor's bytes are in the file, uncompressed."""
        where = f"{self.path}: tensor {shown(name)}"
        storage = tensor.storage
        member = self._member(f"data/{storage.key}", where)
        if member.file_size != storage.bytes:
            raise ConvertError(f"{where}: its storage data/{shown(storage.key)} has "
                               f"{member.file_size} bytes, the pickle says {storage.bytes}")
        end = (tensor.offset + tensor.span) * tensor.item_bytes
        if end > storage.bytes:
            raise ConvertError(f"{where}: reaches to byte {end} of its storage, which has "
                               f"{storage.bytes}")
        if not tensor.contiguous and tensor.span * tensor.item_bytes > _MAX_SPAN_BYTES:
            raise ConvertError(f"{where}: strewn over {tensor.span * tensor.item_bytes} bytes, the "
                               f"limit is {_MAX_SPAN_BYTES}; save it contiguous")
        self._data_offset(member, where)

    def pieces(self, name, tensor):
        """Yields the tensor's bytes, row-major, little-endian. It must have passed check()."""
        where = f"{self.path}: tensor {shown(name)}"
        member = self._member(f"data/{tensor.storage.key}", where)
        start = self._data_offset(member, where)
        self._verify_crc(member, start, where)
        begin = start + tensor.offset * tensor.item_bytes
        if tensor.contiguous:
            yield from self._read_pieces(begin, tensor.bytes, where)
        elif tensor.count:
            yield from self._read_strided(begin, tensor, where)

    def equal(self, first, second):
        """Whether two tensors (name, tensor) of one shape and dtype hold the same bytes."""
        if first[1] == second[1]:
            return True
        return all(a == b for a, b in zip(self._same_pieces(*first), self._same_pieces(*second)))

    def _same_pieces(self, name, tensor):
        """pieces() in lengths that do not depend on how the tensor lies."""
        rest = b""
        for piece in self.pieces(name, tensor):
            rest += piece
            while len(rest) >= _PIECE_BYTES:
                yield rest[:_PIECE_BYTES]
                rest = rest[_PIECE_BYTES:]
        yield rest

    def _read_directory(self):
        head = self._read(0, min(self._size, 16), self.path)
        if head.startswith(_OLD_FORMAT):
            raise ConvertError(
                f"{self.path}: PyTorch's format from before version 1.6, which is no zip file and "
                "not read here; load it in PyTorch with weights_only=True and save it again")
        if head.startswith(b"version https://"):
            raise ConvertError(f"{self.path}: a Git LFS pointer, not the file; `git lfs pull` "
                               "fetches it")
        if not head.startswith(b"PK\x03\x04"):
            raise ConvertError(f"{self.path}: no PyTorch zip file: begins with {head[:8].hex()!r}, "
                               "not with 504b0304")
        try:
            infos = zipfile.ZipFile(self._file).infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error,
                OSError) as error:
            raise ConvertError(f"{self.path}: truncated or damaged: begins as a zip file, but its "
                               f"directory at the end cannot be read ({error})") from None
        members = {info.filename: info for info in infos}
        if len(members) != len(infos):
            raise ConvertError(f"{self.path}: two members of the archive have the same name")
        return members

    def _find_root(self):
        roots = [name[:-len("/data.pkl")] for name in self._members
                 if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise ConvertError(f"{self.path}: no PyTorch file: a zip file with {len(roots)} "
                               "members named FOLDER/data.pkl, not one")
        if f"{roots[0]}/constants.pkl" in self._members:
            raise ConvertError(f"{self.path}: a TorchScript archive, not a file of torch.save")
        return roots[0]

    def _check_byte_order(self):
        if f"{self._root}/byteorder" not in self._members:
            return
        order = self._small("byteorder", 16)
        if order != b"little":
            raise ConvertError(f"{self.path}: byte order {shown(order)}; must be little")

    def _load_objects(self):
        data = self._small("data.pkl", _MAX_PICKLE_BYTES)
        try:
            return pickle_reader.load(data)
        except ConvertError as error:
            raise ConvertError(f"{self.path}: {self._root}/data.pkl: {error}") from None

    def _small(self, name, limit):
        where = f"{self.path}: {self._root}/{name}"
        member = self._member(name, self.path)
        if member.file_size > limit:
            raise ConvertError(f"{where}: {member.file_size} bytes, the limit is {limit}")
        start = self._data_offset(member, where)
        self._verify_crc(member, start, where)
        return self._read(start, member.file_size, where)

    def _member(self, name, where):
        full = f"{self._root}/{name}"
        if full not in self._members:
            raise ConvertError(f"{where}: {shown(full)} is missing in the archive")
        member = self._members[full]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ConvertError(f"{where}: {shown(full)} is compressed or encrypted; PyTorch stores "
                               "members as they are, so this archive was packed anew")
        return member

    def _data_offset(self, member, where):
        """The member's first byte, by the header in front of it (which torch pads)."""
        start = member.header_offset
        header = self._read(start, 30, where)
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        start += 30 + name_bytes + extra_bytes
        if not header.startswith(b"PK\x03\x04") or start + member.file_size > self._size:
            raise ConvertError(f"{where}: damaged archive: {shown(member.filename)} is not where "
                               "the directory says")
        return start

    def _verify_crc(self, member, start, where):
        if not self._check_crc or member.filename in self._checked:
            return
        crc = 0
        for piece in self._read_pieces(start, member.file_size, where):
            crc = zlib.crc32(piece, crc)
        if crc != member.CRC:
            raise ConvertError(f"{where}: damaged archive: {shown(member.filename)} has another "
                               "checksum than was stored (--skip_crc reads archives that were "
                               "saved without checksums)")
        self._checked.add(member.filename)

    def _read(self, offset, count, where):
        try:
            data = os.pread(self._file.fileno(), count, offset)
        except OSError as error:
            raise ConvertError(f"{where}: {error.strerror}") from None
        if len(data) != count:
            raise ConvertError(f"{where}: truncated: {len(data)} of {count} bytes at {offset}")
        return data

    def _read_pieces(self, offset, count, where):
        for begin in range(0, count, _PIECE_BYTES):
            yield self._read(offset + begin, min(_PIECE_BYTES, count - begin), where)

    def _read_strided(self, begin, tensor, where):
        pieces = self._read_pieces(begin, tensor.span * tensor.item_bytes, where)
        flat = np.frombuffer(b"".join(pieces), dtype=f"<u{tensor.item_bytes}")
        strides = [stride * tensor.item_bytes for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
        row_bytes = tensor.bytes // tensor.shape[0]
        rows = max(1, _PIECE_BYTES // row_bytes)
        for first in range(0, tensor.shape[0], rows):
            yield view[first:first + rows].tobytes()
