#!/usr/bin/env bash
# Makes the packages of programs that are built, the same bits for the same programs:
#
#   package.sh OUTPUT SERVER CLIENT WHEEL [CUDA_LIBRARY]
#
#   OUTPUT/packrat-VERSION-linux-amd64.tar.gz   runs where it is unpacked, beside glibc 2.36 or later
#   OUTPUT/packrat_VERSION_amd64.deb            for Debian 12, with a service
#   OUTPUT/packrat-VERSION.spdx.json            what is in the tar
#   OUTPUT/packrat_client-VERSION-py3-none-any.whl
#                                               the Python client, for pip
# and with the library of the CUDA backend, which then is in the tar too:
#   OUTPUT/packrat-cuda_VERSION_amd64.deb
#
# SOURCE_DATE_EPOCH, in seconds, is the time of all files.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

output=$1 server=$(readlink -e "$2") client=$(readlink -e "$3") wheel=$(readlink -e "$4")
cuda=${5:+$(readlink -e "$5")}
: "${SOURCE_DATE_EPOCH:?}"
export SOURCE_DATE_EPOCH PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 TZ=UTC
for tool in patchelf strip dpkg-shlibdeps dh gzip; do
  command -v "$tool" >/dev/null || {
    echo "package.sh: there is no $tool; ./dev deps package installs it" >&2
    exit 1
  }
done
version=$("$server" --version)
version=${version#* }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$output"
programs=(--server="$server" --client="$client" ${cuda:+--cuda="$cuda"})

name=packrat-$version-linux-amd64
"$here/tree.py" --kind=bundle --output="$work/$name" "${programs[@]}"
cp "$work/$name/share/doc/packrat/packrat.spdx.json" "$work/packrat-$version.spdx.json"
tar -C "$work" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner -cf - "$name" |
  gzip -n >"$work/$name.tar.gz"

"$here/tree.py" --kind=system --output="$work/deb/root" "${programs[@]}"
"$here/deb.sh" "$work/deb" "$version" "$cuda"

cp "$wheel" "$work/packrat_client-$version-py3-none-any.whl"
chmod 644 "$work"/*.whl

# Nothing half done: all of them, or none.
mv "$work"/*.tar.gz "$work"/*.spdx.json "$work"/*.whl "$work"/deb/*.deb "$output/"
