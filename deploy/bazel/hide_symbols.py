#!/usr/bin/env python3
"""hide_symbols.py IN.so NEW_NAME WORD...: a copy of a shared library that keeps symbols to itself.

Every dynamic symbol that the library defines and whose (mangled) name contains one of the words
becomes hidden: the dynamic linker then binds the library's own references to its own definition, and
shows that definition to nobody else. This is for a library that was linked with a private copy of
another library and forgot to hide it.

The copy is called NEW_NAME, inside (its SONAME) and outside, so that a program linked with it never
gets the original by mistake. The new name may not be longer than the old one.
"""

import struct
import sys

SHT_DYNAMIC = 6
SHT_DYNSYM = 11
DT_SONAME = 14
STV_HIDDEN = 2
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
DYNAMIC = struct.Struct("<qQ")


def sections(elf):
    if elf[:6] != b"\x7fELF\x02\x01":
        sys.exit("not a 64-bit little-endian ELF file")
    offset, = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    return [SECTION.unpack_from(elf, offset + i * size) for i in range(count)]


def hide(elf, words):
    """Changes `elf` (a bytearray) in place; returns how many symbols are hidden now."""
    hidden = 0
    headers = sections(elf)
    for _, kind, _, _, offset, size, link, _, _, entry in headers:
        if kind != SHT_DYNSYM:
            continue
        names = headers[link][4]
        for at in range(offset, offset + size, entry):
            name, info, other, section, value, length = SYMBOL.unpack_from(elf, at)
            start = names + name
            text = bytes(elf[start:elf.index(0, start)])
            if section != 0 and any(word in text for word in words):
                other = (other & ~3) | STV_HIDDEN
                SYMBOL.pack_into(elf, at, name, info, other, section, value, length)
                hidden += 1
    return hidden


def rename(elf, name):
    """Writes `name` over the SONAME."""
    headers = sections(elf)
    for _, kind, _, _, offset, size, link, _, _, entry in headers:
        if kind != SHT_DYNAMIC:
            continue
        for at in range(offset, offset + size, entry):
            tag, value = DYNAMIC.unpack_from(elf, at)
            if tag == DT_SONAME:
                start = headers[link][4] + value
                room = elf.index(0, start) - start
                if len(name) > room:
                    sys.exit("the new name %r is longer than the old one" % name)
                elf[start:start + room] = name.encode().ljust(room, b"\0")
                return
    sys.exit("the library has no SONAME")


def main():
    source, destination = sys.argv[1:3]
    with open(source, "rb") as file:
        elf = bytearray(file.read())
    if not hide(elf, [word.encode() for word in sys.argv[3:]]):
        sys.exit("no symbol of %s contains any of %s" % (source, sys.argv[3:]))
    rename(elf, destination)
    with open(destination, "wb") as file:
        file.write(elf)


if __name__ == "__main__":
    main()
