"""Man pages: a hand-written page with marks, and what the programs say of themselves at the marks.

  @VERSION@  @DATE@   of the package
  @FLAGS@             the program's flags
  @COMMANDS@          its commands
  @HELP NAME@         the help text of one command, as it is
"""

import datetime
import re

from deploy.package import flags


def escape(text):
    """Text as roff prints it unchanged."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=['.])", r"\\&", text, flags=re.MULTILINE)


def _flag(flag):
    default = "\nDefault: %s." % escape(flag.default) if flag.default else ""
    return ".TP\n.B \\-\\-%s\n%s%s\n" % (escape(flag.name), escape(flag.help), default)


def _command(command):
    arguments = " \\fI%s\\fR" % escape(command.arguments) if command.arguments else ""
    return ".TP\n\\fB%s\\fR%s\n%s\n" % (command.name, arguments,
                                        escape(command.help or "This help."))


def page(template, program, created):
    """The page of a program.

    Args:
      template: text of the hand-written page.
      program: path of the program.
      created: seconds since 1970.
    """
    text = flags.help_text(program)
    name = program.rsplit("/", 1)[-1]
    date = datetime.datetime.fromtimestamp(created, datetime.timezone.utc)
    marks = {
        "VERSION": lambda: escape(flags.version(program)),
        "DATE": lambda: date.strftime("%Y-%m-%d"),
        "FLAGS": lambda: "".join(map(_flag, flags.flags(program))).rstrip("\n"),
        "COMMANDS": lambda: "".join(map(_command, flags.commands(text, name))).rstrip("\n"),
    }

    def fill(mark):
        if mark.group(2):
            return escape(flags.help_text(program, mark.group(2))).rstrip("\n")
        return marks[mark.group(1)]()
    return re.sub(r"@([A-Z]+)(?: (\w+))?@", fill, template)
