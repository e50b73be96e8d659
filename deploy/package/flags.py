"""What a program says of itself: `PROGRAM --help`, taken apart."""

import collections
import re
import subprocess

# `default` is empty where the flag has none.
Flag = collections.namedtuple("Flag", ["name", "default", "help"])
Command = collections.namedtuple("Command", ["name", "arguments", "help"])


def help_text(program, *arguments):
    return subprocess.run([program, *arguments, "--help"], stdout=subprocess.PIPE, check=True,
                          encoding="utf-8").stdout


def flags(text):
    """The flags of a help text."""
    found = [Flag(name, "" if default == "none" else default, " ".join(what.split()))
             for name, default, what in re.findall(
                 r"^  --(\w+) \(default: (.*)\)\n((?: {6}.*\n)+)", text, re.MULTILINE)]
    if not found:
        raise ValueError("no flags in the help text")
    return found


def commands(text, program):
    """The commands that the usage part of a help text lists."""
    usage = text.split("\nFlags:")[0]
    found = []
    for name, arguments, what in re.findall(
            r"^  %s (\w+)(?: ([^ ].*?))?(?:(?: {2,}(.*(?:\n {10,}.*)*))|$)" % program, usage,
            re.MULTILINE):
        found.append(Command(name, arguments, " ".join(what.split())))
    return found


def version(program):
    """`PROGRAM --version` without the program's name."""
    text = subprocess.run([program, "--version"], stdout=subprocess.PIPE, check=True,
                          encoding="utf-8").stdout
    return text.split()[1]
