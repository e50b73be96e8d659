#!/usr/bin/env bash
# Puts a folder together that runs on a machine with no more than a driver:
#
#   pack.sh DIR yes|no BINARY...
#
# DIR must not exist or be a pack. yes: with cuBLASLt (540 MB). BINARY is as Bazel leaves it, beside
# the tree of what it reads; tests are called NAME_device.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../../.."

dir=$1 with_cublas=$2
shift 2
if [[ -e $dir && ! -e $dir/MANIFEST ]]; then
  echo "$dir exists and is no pack" >&2
  exit 1
fi
rm -rf "$dir"
mkdir -p "$dir"/{bin,lib,tests,data}
# Programs open it themselves, so that no list of what they need has it.
cuda=${CUDA_PATH:-/usr/local/cuda}
[[ $with_cublas == no ]] || cp -L "$cuda"/lib64/libcublasLt.so.1[23] "$dir/lib/"
# What lets an older driver run this, where the toolkit has it: run.sh tries it.
if [[ -e $cuda/compat/libcuda.so.1 ]]; then
  mkdir "$dir/compat"
  cp -a "$cuda/compat/." "$dir/compat/"
fi

# copy BINARY FOLDER: stripped, with the libraries that a bare system may lack.
copy() {
  local library
  install -m 755 "$1" "$dir/$2/"
  strip "$dir/$2/$(basename "$1")"
  while read -r library; do
    case $library in
      */libc.so.* | */libm.so.* | */libpthread.so.* | */libdl.so.* | */librt.so.* | \
        */ld-linux* | */libcuda.so.*) ;;
      *) [[ -e $dir/lib/$(basename "$library") ]] || install -m 644 "$library" "$dir/lib/" ;;
    esac
  done < <(ldd "$1" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p')
}

for binary in "$@"; do
  if [[ $binary != *_device ]]; then
    copy "$binary" bin
    continue
  fi
  copy "$binary" tests
  # What it reads.
  [[ ! -d $binary.runfiles/packrat ]] || tar -C "$binary.runfiles/packrat" -chf - \
    --exclude="$(basename "$binary")" --exclude='_solib*' . | tar -C "$dir/data" -xf -
done
mkdir -p "$dir/data/tests" "$dir/data/models"
chmod -R u+w "$dir/data"
cp -r tests/golden "$dir/data/tests/"
cp -r models/demo "$dir/data/models/"
install -m 755 tests/bench/gpu/run.sh "$dir/"
install -m 644 tests/bench/gpu/{reference,yardsticks}.py tests/bench/server_bench.py "$dir/"
{
  echo "packrat $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(
    git diff --quiet HEAD -- 2>/dev/null || echo ' with changes')"
  echo "made $(date -u +%FT%TZ)"
  # The oldest C library that this runs with.
  for file in "$dir"/bin/* "$dir"/tests/* "$dir"/lib/*; do
    objdump -T "$file" 2>/dev/null | grep -o 'GLIBC_2[.0-9]*' || true
  done | sort -uV | tail -n 1
} >"$dir/MANIFEST"
du -sh "$dir" | sed 's/\t.*//; s/^/size: /' >>"$dir/MANIFEST"
cat "$dir/MANIFEST" >&2
