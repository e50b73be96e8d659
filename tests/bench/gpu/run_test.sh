#!/usr/bin/env bash
# run.sh without a device and with programs that stand in for the pack's: what it runs, what it
# says, how it ends, and that it keeps to its time. In an empty environment, as on a bare machine.
set -euo pipefail
run=$(readlink -f "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  cat "$work/out" >&2
  exit 1
}

# program PATH: from stdin.
program() {
  mkdir -p "$(dirname "$1")"
  { echo '#!/bin/bash' && cat; } >"$1"
  chmod +x "$1"
}

environment=()
# expect STATUS ARGUMENT...: runs the pack, in a folder of its own.
expect() {
  local wanted=$1 status=0
  shift
  (cd "$work" && env -i "${environment[@]}" /bin/bash "$work/pack/run.sh" "$@") >"$work/out" 2>&1 || status=$?
  ((status == wanted)) || fail "status $status, not $wanted: $*"
}
says() { grep -q -- "$1" "$work/results/summary.txt" || fail "the summary has no '$1'"; }

mkdir -p "$work"/pack/{lib,data}
install -m 755 "$run" "$work/pack/run.sh"
echo 'packrat test' >"$work/pack/MANIFEST"
touch "$work/pack/lib/libcublasLt.so.13"
program "$work/pack/bin/gpu_bench" <<'PROGRAM'
echo "no CUDA device: none" >&2
exit 3
PROGRAM
program "$work/pack/tests/some_test" <<'PROGRAM'
[[ $LD_LIBRARY_PATH == */pack/lib:* && -n $TEST_TMPDIR && $PWD == */pack/data ]] || exit 9
echo '[  SKIPPED ] A.B (0 ms)'
echo '[       OK ] A.C (0 ms)'
PROGRAM

# No device: tests skip, nothing else is tried.
expect 3
says 'device: no CUDA device: none'
says 'some_test: 1 passed, 0 failed, 1 skipped'
says 'nothing was run on a device: no CUDA device: none'
grep -q 'packrat test' "$work/results/machine.txt" || fail "machine.txt lacks the manifest"
! grep -q bench: "$work/results/summary.txt" || fail "benchmarks without a device"

# An older driver, without NVIDIA's library for that and with it.
program "$work/pack/bin/gpu_bench" <<'PROGRAM'
[[ $LD_LIBRARY_PATH != */toolkit/compat ]] || { echo 'Some GPU'; exit 0; }
echo "no CUDA device: the driver is too old: it supports CUDA up to 12.8" >&2
exit 3
PROGRAM
expect 3 --only=tests
says 'nothing was run on a device: .*the driver is too old'
mkdir -p "$work/toolkit/compat"
touch "$work/toolkit/compat/libcuda.so.1"
environment=("CUDA_PATH=$work/toolkit")
expect 0 --only=tests
says 'driver: too old by itself, with .*/toolkit/compat'
says 'device: Some GPU'
environment=()
# The pack's own comes first.
mkdir "$work/pack/compat"
touch "$work/pack/compat/libcuda.so.1"
sed -i 's|toolkit/compat|pack/compat|' "$work/pack/bin/gpu_bench"
environment=("CUDA_PATH=$work/toolkit")
expect 0 --only=tests
says 'driver: too old by itself, with .*/pack/compat'
rm -r "$work/pack/compat"
environment=()

# A device: all parts, and the benchmarks' arguments.
program "$work/pack/bin/gpu_bench" <<'PROGRAM'
[[ $* != --check ]] || { echo 'Some GPU'; exit 0; }
[[ $1 == --out=*/results && $2 == --scratch=/* && $3 =~ ^--budget=[0-9]+$ ]] || exit 9
echo '{}' >"${1#--out=}/bench.jsonl"
PROGRAM
expect 0 --only=tests,bench
says 'device: Some GPU'
says 'bench: done'
says '^passed$'

# The server's programs find their libraries, Python its own.
for name in packrat_server packrat engine_bench; do
  program "$work/pack/bin/$name" <<'PROGRAM'
[[ $LD_LIBRARY_PATH == */pack/lib:* ]] || exit 9
echo "row of $(basename "$0") $*"
PROGRAM
done
cat >"$work/pack/server_bench.py" <<'PROGRAM'
import os, subprocess, sys
assert "LD_LIBRARY_PATH" not in os.environ and sys.argv[4].endswith("/pack/data/models/demo")
for program in sys.argv[1:4]:
    subprocess.run([program, "arguments"], check=True)
sys.exit(7)
PROGRAM
expect 0 --only=tests,server
for name in packrat_server packrat engine_bench; do says "server: row of $name arguments"; done
says 'server: ended with 7'

# Another folder; a failing test; a test that ends without a word.
program "$work/pack/tests/other_test" <<'PROGRAM'
echo '[  FAILED  ] A.D (0 ms)'
exit 1
PROGRAM
expect 1 elsewhere --only=tests
grep -q 'other_test: FAILED with 1, 0 passed, 1 failed' "$work/elsewhere/summary.txt" || fail "no failure"
program "$work/pack/tests/other_test" <<<'kill -SEGV $$'
expect 1 --only=tests
says 'other_test: FAILED with'

# Too slow: stopped in time, and that is a failure.
program "$work/pack/tests/other_test" <<<'sleep 60'
start=$SECONDS
expect 1 --only=tests --seconds=2
says 'other_test: STOPPED'
((SECONDS - start < 20)) || fail "took $((SECONDS - start)) seconds"

# No test at all is no success; nor are wrong arguments or a missing library.
rm "$work"/pack/tests/*
expect 5 --only=tests
expect 2 --nonsense
rm "$work/pack/lib/libcublasLt.so.13"
if [[ ! -e /usr/local/cuda/lib64/libcublasLt.so.13 ]]; then
  expect 4
  says 'no libcublasLt.so.13 or libcublasLt.so.12'
fi

# Found on the machine: that of CUDA 13 before that of CUDA 12, which programs see under its name.
program "$work/pack/tests/some_test" <<'PROGRAM'
IFS=: read -ra folders <<<"$LD_LIBRARY_PATH"
for folder in "${folders[@]}"; do ls "$folder"; done | grep -q "^$(cat "$TEST_TMPDIR/../wanted")$" || exit 9
echo '[       OK ] A.C (0 ms)'
PROGRAM
mkdir -p "$work/toolkit/lib64"
environment=("CUDA_PATH=$work/toolkit" "TMPDIR=$work")
# Another's toolkit of CUDA 13 would go first.
if [[ ! -e /usr/local/cuda/lib64/libcublasLt.so.13 ]]; then
  touch "$work/toolkit/lib64/libcublasLt.so.12"
  echo libcublasLt.so.12 >"$work/wanted"
  expect 0 --only=tests
  says "cuBLASLt: $work/toolkit/lib64/libcublasLt.so.12"
fi
touch "$work/toolkit/lib64/libcublasLt.so.13"
echo libcublasLt.so.13 >"$work/wanted"
expect 0 --only=tests
says "cuBLASLt: $work/toolkit/lib64/libcublasLt.so.13"
echo "passed"
