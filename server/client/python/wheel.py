#!/usr/bin/env python3
"""Makes the wheel of packrat_client, the same bits for the same files:

  wheel.py --output=FILE --version=server/version.cc --commit=SUFFIX --licence=LICENSE FILES...

FILES below a folder packrat_client/ are the package's. Those below examples/ go where pip puts documents, and nothing
imports them. Others are passed over.
"""

import argparse
import ast
import base64
import hashlib
import re
import zipfile

METADATA = """Metadata-Version: 2.1
Name: packrat-client
Version: {version}
Summary: {summary}
License: Apache-2.0
License-File: LICENSE
Classifier: License :: OSI Approved :: Apache Software License
Classifier: Operating System :: OS Independent
Classifier: Programming Language :: Python :: 3
Classifier: Typing :: Typed
Requires-Python: >=3.9
Requires-Dist: grpcio>=1.51
Requires-Dist: protobuf>=4.21
Description-Content-Type: text/plain

{description}
"""
WHEEL = """Wheel-Version: 1.0
Generator: packrat wheel.py
Root-Is-Purelib: true
Tag: py3-none-any
"""


def read(path):
    with open(path, "rb") as file:
        return file.read()


def contents(paths, version, licence):
    """Names in the wheel, with their bytes."""
    files = {}
    for path in paths:
        _, folder, name = path.rpartition("/packrat_client/proto/")
        if not folder:
            _, folder, name = path.rpartition("/packrat_client/")
        if folder:
            files[folder[1:] + name] = read(path)
        _, folder, name = path.rpartition("/examples/")
        if folder:
            files["packrat_client-%s.data/data/share/doc/packrat-client/examples/%s" % (version, name)] = read(path)
    description = ast.get_docstring(ast.parse(files["packrat_client/__init__.py"]))
    info = "packrat_client-%s.dist-info/" % version
    files[info + "METADATA"] = METADATA.format(
        version=version, summary=description.split("\n", maxsplit=1)[0], description=description).encode()
    files[info + "WHEEL"] = WHEEL.encode()
    files[info + "LICENSE"] = read(licence)
    record = "".join("%s,sha256=%s,%d\n" % (
        name, base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("="), len(data))
        for name, data in sorted(files.items()))
    files[info + "RECORD"] = (record + info + "RECORD,,\n").encode()
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    for name in ("output", "version", "commit", "licence"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    version = re.search(r'"([\d.]+)" PACKRAT_COMMIT_SUFFIX', read(arguments.version).decode()).group(1)
    files = contents(arguments.files, version + arguments.commit, arguments.licence)
    with zipfile.ZipFile(arguments.output, "w", zipfile.ZIP_DEFLATED) as wheel:
        # RECORD is last, as tools expect.
        for name in sorted(files, key=lambda name: (name.endswith("/RECORD"), name)):
            entry = zipfile.ZipInfo(name)  # Of 1980.
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, files[name])


if __name__ == "__main__":
    main()
