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


def _flags(text):
    return [Flag(name, "" if default == "none" else default, " ".join(what.split()))
            for name, default, what in re.findall(
                r"^  --(\w+) \(default: (.*)\)\n((?: {6}.*\n)+)", text, re.MULTILINE)]


def flags(program):
    """The flags that a program's help tells, and those that the help of its commands does.

    Some commands have nothing in common with the others: their flags are in their own help alone.
    """
    text = help_text(program)
    texts = [help_text(program, command.name)
             for command in commands(text, program.rsplit("/", 1)[-1])]
    found = {flag.name: flag
             for text in [text] + [text for text in texts if "\nand those of all commands" in text]
             for flag in _flags(text)}
    if not found:
        raise ValueError("no flags in the help text")
    return [found[name] for name in sorted(found)]


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
