"""The generated tables of docs/options.md and docs/metrics.md.

As a script, writes them into the pages:
  reference.py options docs/options.md < output of packrat_server --help
  reference.py metrics docs/metrics.md < what a server shows at /metrics
"""

import re
import sys

BEGIN = "<!-- generated: ./dev docs -->\n"
END = "<!-- end -->\n"


def options_table(help_text):
    """A Markdown table from the flags of `packrat_server --help`."""
    rows = []
    for name, default, what in re.findall(
            r"^  --(\w+) \(default: (.*)\)\n((?: {6}.*\n)+)", help_text, re.MULTILINE):
        rows.append("| `--%s` | %s | %s |\n" % (
            name, "" if default == "none" else "`%s`" % default, " ".join(what.split())))
    return "| flag | default | |\n| --- | --- | --- |\n" + "".join(sorted(rows))


def metrics_table(exposition):
    """A Markdown table from Prometheus's text format."""
    texts = dict(re.findall(r"^# HELP (\S+) (.*)$", exposition, re.MULTILINE))
    types = re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE)
    rows = []
    for name, kind in sorted(types):
        labels = set()
        for found in re.findall(r"^%s(?:_bucket|_sum|_count)?\{(.*)\} " % name, exposition,
                                re.MULTILINE):
            labels.update(re.findall(r'(\w+)="', found))
        labels -= {"le", "model"}
        rows.append("| `%s` | %s | %s | %s |\n" % (
            name, kind, ", ".join("`%s`" % l for l in sorted(labels)), texts.get(name, "")))
    return "| metric | type | labels | |\n| --- | --- | --- | --- |\n" + "".join(rows)


def generated(page):
    """The generated part of a page."""
    return page[page.index(BEGIN) + len(BEGIN):page.index(END)]


def replaced(page, table):
    return page[:page.index(BEGIN) + len(BEGIN)] + table + page[page.index(END):]


def main():
    kind, path = sys.argv[1:]
    make = {"options": options_table, "metrics": metrics_table}[kind]
    with open(path, encoding="utf-8") as file:
        page = file.read()
    table = make(sys.stdin.read())
    if table.count("\n") < 3:
        sys.exit("nothing to write into " + path)
    with open(path, "w", encoding="utf-8") as file:
        file.write(replaced(page, table))


if __name__ == "__main__":
    main()
