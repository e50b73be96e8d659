"""Which licence each library is under, and the texts that go with copies of them."""

import gzip
import os
import re
import shutil

# By Debian's source package (and "cuda"): the licence of what is compiled into the libraries, as an SPDX expression.
# Read from the copyright file of each package, whose licences of build systems, tests and packaging do
# not concern the binary.
EXPRESSIONS = {
    "abseil": "Apache-2.0",
    "boost1.74": "BSL-1.0",
    "brotli": "MIT",
    "c-ares": "MIT",
    "cuda": "LicenseRef-NVIDIA-CUDA-EULA",
    "gcc-12": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "glibc": "LGPL-2.1-or-later",
    "grpc": "Apache-2.0 AND BSD-3-Clause AND MIT",
    "highway": "Apache-2.0",
    "hiredis": "BSD-3-Clause",
    "libbsd": "BSD-3-Clause AND BSD-2-Clause AND ISC AND MIT AND Beerware",
    "libedit": "BSD-3-Clause",
    "libmd": "BSD-3-Clause AND BSD-2-Clause AND ISC AND Beerware",
    "ncurses": "MIT AND X11 AND BSD-3-Clause",
    "nlohmann-json3": "MIT",
    "openssl": "Apache-2.0",
    "pcre2": "BSD-3-Clause",
    "prometheus-cpp": "MIT",
    "protobuf": "BSD-3-Clause",
    "re2": "BSD-3-Clause",
    "sentencepiece": "Apache-2.0 AND BSD-3-Clause AND BSD-2-Clause AND MIT",
    "utf8proc": "MIT AND Unicode-DFS-2015",
    "zlib": "Zlib",
}
# What is no licence of SPDX's list.
OTHERS = {
    "LicenseRef-NVIDIA-CUDA-EULA": "NVIDIA's end user licence agreement for CUDA toolkits; the text is beside "
                                   "this file where the toolkit had it.",
}
# Larger texts are packed: Boost's, of all its libraries, has 2 MB.
_LONGEST_PLAIN = 64 << 10
_DOC = "/usr/share/doc"
_COMMON = "/usr/share/common-licenses"


def expression(package):
    """Of a libraries.Package. A library that nobody looked at is an error, not a gap."""
    if package.source not in EXPRESSIONS:
        raise ValueError("%s (%s): its licence is not in deploy/package/licences.py"
                         % (package.name, package.source))
    return EXPRESSIONS[package.source]


def copy_texts(packages, folder):
    """Writes folder/PACKAGE, or PACKAGE.gz, for each package, and the texts that those refer to."""
    common = set()
    os.makedirs(folder, exist_ok=True)
    for package in packages:
        with open(os.path.join(_DOC, package.name, "copyright"), "rb") as file:
            text = file.read()
        common.update(re.findall(_COMMON + r"/([\w.+-]*\w)", text.decode(errors="replace")))
        packed = len(text) > _LONGEST_PLAIN
        with open(os.path.join(folder, package.name + (".gz" if packed else "")), "wb") as file:
            file.write(gzip.compress(text, mtime=0) if packed else text)
    os.makedirs(os.path.join(folder, "common"), exist_ok=True)
    for name in sorted(common):
        source = os.path.join(_COMMON, name)
        if os.path.exists(source):
            shutil.copyfile(source, os.path.join(folder, "common", name))
