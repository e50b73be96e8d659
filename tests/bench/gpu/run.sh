#!/usr/bin/env bash
# Runs what ./dev gpu-pack has put beside it on a machine with a driver: the tests, by themselves
# and under compute-sanitizer where there is one, the benchmarks, the server against the bare engine
# where there is a Python, and PyTorch for comparison where there is one. Everything is written into a folder; its summary.txt is also printed.
#
#   ./run.sh [RESULTS] [--only=tests,bench,server,reference,sanitizer] [--seconds=N]
#
# RESULTS is ./results. All ends within N seconds (default 570); what does not fit is left out and
# said so. Ends with 0: the tests passed (and the sanitizers found nothing), 1: they did not,
# 2: wrong arguments, 3: no CUDA device, 4: no cuBLASLt found, 5: not a single test was run.
set -uo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
export PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}

results=results only=tests,bench,server,reference,sanitizer seconds=570
for argument in "$@"; do
  case $argument in
    --only=?*) only=${argument#*=} ;;
    --seconds=[1-9]*) seconds=${argument#*=} ;;
    -*)
      echo "unknown argument $argument; see the first lines of $0" >&2
      exit 2
      ;;
    *) results=$argument ;;
  esac
done
mkdir -p "$results" && results=$(readlink -f "$results") || exit 2
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
: >"$results/summary.txt"

say() { printf '%s\n' "$*" | tee -a "$results/summary.txt"; }
wanted() { [[ ,$only, == *,$1,* ]]; }
left() { echo $((seconds - SECONDS)); }
# limited SHARE COMMAND...: COMMAND for at most SHARE seconds and what is left of the whole; 124 if
# that was too little.
limited() {
  local share=$1 rest
  shift
  rest=$(left)
  ((share < rest)) || share=$rest
  ((share > 0)) || return 124
  timeout --kill-after=5 "$share" "$@"
}
# share SECONDS: all that is left if only one part was asked for.
share() { if [[ $only == *,* ]]; then echo "$1"; else left; fi; }

machine() {
  cat "$here/MANIFEST" 2>/dev/null
  date -u
  uname -srm
  grep -m 1 'model name' /proc/cpuinfo
  nproc
  nvidia-smi 2>&1 || echo "nvidia-smi cannot be run"
}

# find_cublas NAME: prints the path of cuBLASLt of that version, if the pack was made without it.
find_cublas() {
  local name=$1 python candidate
  for candidate in "${CUDA_PATH:-/nonexistent}"/lib64 /usr/local/cuda*/lib64 \
    /usr/local/cuda*/targets/x86_64-linux/lib /usr/lib/x86_64-linux-gnu; do
    [[ ! -e $candidate/$name ]] || { printf '%s\n' "$candidate/$name"; return; }
  done
  for python in python3 /opt/*/.venv/bin/python3 /opt/*/bin/python3; do
    candidate=$("$python" - "$name" 2>/dev/null <<'PYTHON'
import glob, os, sys
for folder in sys.path:
    found = glob.glob(os.path.join(folder, "nvidia", "*", "lib", sys.argv[1]))
    if found:
        print(found[0])
        break
PYTHON
    ) || continue
    [[ -z $candidate ]] || { printf '%s\n' "$candidate"; return; }
  done
  return 1
}

# find_python STATEMENT: a Python that can run it.
find_python() {
  local python
  for python in python3 /opt/*/.venv/bin/python3 /opt/*/bin/python3; do
    ! "$python" -c "$1" 2>/dev/null || { command -v "$python"; return; }
  done
  return 1
}

# Of GoogleTest's output: the numbers of tests that passed, failed and were skipped.
count() {
  local log=$1
  printf '%s passed, %s failed, %s skipped' \
    "$(grep -c '^\[       OK \]' "$log")" \
    "$(grep '^\[  FAILED  \]' "$log" | grep -c ' ms)$')" \
    "$(grep '^\[  SKIPPED \]' "$log" | grep -c ' ms)$')"
}

# The library path is for our programs alone: nvidia-smi and Python find their own.
compat=''
ours() { LD_LIBRARY_PATH="$here/lib:$scratch/lib$compat" TEST_TMPDIR="$scratch" "$@"; }

# NVIDIA's forward-compatibility library (of the pack, of the package cuda-compat-13-*, or in a container's
# toolkit) lets an older driver of a data centre's card run what was built for a newer CUDA.
use_compat() {
  local folder
  for folder in "$here"/compat "${CUDA_PATH:-/nonexistent}"/compat /usr/local/cuda-13*/compat /usr/local/cuda/compat; do
    [[ -e $folder/libcuda.so.1 ]] || continue
    compat=:$folder
    say "driver: too old by itself, with $folder"
    return
  done
  return 1
}

failed=0 tests_run=0
run_tests() {
  local test name status log="$scratch/test"
  cd "$here/data" || return
  for test in "$here"/tests/*; do
    [[ -x $test ]] || continue
    name=$(basename "$test")
    status=0
    ours limited "$(share 120)" "$test" >"$log" 2>&1 || status=$?
    { printf '===== %s\n' "$name"; cat "$log"; } >>"$results/tests.log"
    case $status in
      0) say "test $name: $(count "$log")" ;;
      124 | 137) say "test $name: STOPPED, out of time" ;;
      *) say "test $name: FAILED with $status, $(count "$log")" ;;
    esac
    ((status == 0)) || failed=1
    tests_run=$((tests_run + 1))
  done
}

run_sanitizer() {
  local sanitizer tool test name status log="$scratch/sanitizer_log"
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null) || {
    say "sanitizer: no compute-sanitizer on this machine"
    return
  }
  cd "$here/data" || return
  for tool in memcheck racecheck initcheck; do
    for test in "$here"/tests/*; do
      [[ -x $test ]] || continue
      name=$(basename "$test")
      status=0
      # Tests of failures make API calls fail on purpose.
      ours limited "$(left)" "${sanitizer%%$'\n'*}" --tool "$tool" --report-api-errors no \
        --error-exitcode 99 "$test" >"$log" 2>&1 || status=$?
      { printf '===== %s %s\n' "$tool" "$name"; tail -c 200000 "$log"; } >>"$results/sanitizer.log"
      case $status in
        0) say "$tool $name: clean" ;;
        124 | 137) say "$tool $name: not finished, out of time" ;;
        *)
          say "$tool $name: FAILED with $status: $(grep -m 1 -E 'ERROR SUMMARY|RACECHECK SUMMARY|Error' "$log")"
          failed=1
          ;;
      esac
    done
  done
}

run_bench() {
  local budget row status=0
  budget=$(share 260)
  ((budget < $(left))) || budget=$(left)
  ((budget > 10)) || { say "bench: not run, out of time"; return; }
  ours limited "$budget" "$here/bin/gpu_bench" --out="$results" --scratch="$scratch" \
    --budget=$((budget - 10)) >"$results/bench.log" 2>&1 || status=$?
  case $status in
    0) say "bench: done, see bench.txt" ;;
    1) say "bench: some rows failed, see bench.txt" ;;
    3) say "bench: no CUDA device" ;;
    124 | 137) say "bench: STOPPED, out of time; what was measured is in bench.jsonl" ;;
    *) say "bench: FAILED with $status, see bench.log" ;;
  esac
  # Kernels that overlap, beside those that do not.
  while read -r row; do say "bench: $row"; done < <(
    grep -E '\| decode(, overlapping kernels)? \|' "$results/bench.txt" 2>/dev/null)
}

run_server() {
  local python name row status=0 programs="$scratch/programs"
  python=$(find_python 'import json') || { say "server: no Python on this machine"; return; }
  mkdir -p "$programs"
  for name in packrat_server packrat engine_bench; do
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$here/lib:$scratch/lib$compat" \
      "$here/bin/$name" >"$programs/$name"
    chmod +x "$programs/$name"
  done
  limited "$(share 45)" "$python" "$here/server_bench.py" \
    "$programs"/{packrat_server,packrat,engine_bench} "$here/data/models/demo" \
    >"$scratch/rows" 2>>"$results/bench.log" || status=$?
  while read -r row; do say "server: $row"; done <"$scratch/rows"
  ((status == 0)) || say "server: ended with $status, see bench.log"
}

run_reference() {
  local python budget status=0 ours=()
  python=$(find_python 'import torch') || { say "reference: no PyTorch on this machine"; return; }
  budget=$(share 100)
  ((budget < $(left))) || budget=$(left)
  [[ ! -s $results/bench.jsonl ]] || ours=(--ours="$results/bench.jsonl")
  HOME=${HOME:-$scratch} limited "$budget" "$python" "$here/reference.py" \
    --out="$results/reference.jsonl" --budget="$((budget > 25 ? budget - 20 : 5))" "${ours[@]}" \
    >>"$results/bench.log" 2>&1 || status=$?
  case $status in
    0) say "reference: done, see reference.jsonl" ;;
    3) say "reference: no CUDA device" ;;
    124 | 137) say "reference: STOPPED, out of time" ;;
    *) say "reference: FAILED with $status, see bench.log" ;;
  esac
}

machine >"$results/machine.txt" 2>&1
mkdir "$scratch/lib"
if [[ ! -e $here/lib/libcublasLt.so.13 ]]; then
  cublas=$(find_cublas libcublasLt.so.13 || find_cublas libcublasLt.so.12) || {
    say "no libcublasLt.so.13 or libcublasLt.so.12: this pack was made without it; set CUDA_PATH to a toolkit's folder"
    exit 4
  }
  ln -s "$(readlink -f "$cublas")" "$scratch/lib/$(basename "$cublas")"
  say "cuBLASLt: $cublas"
fi
device=0
ours "$here/bin/gpu_bench" --check >"$scratch/check" 2>&1 || device=$?
if ((device != 0)) && grep -q 'driver is too old' "$scratch/check" && use_compat; then
  device=0
  ours "$here/bin/gpu_bench" --check >"$scratch/check" 2>&1 || device=$?
fi
say "device: $(tail -n 1 "$scratch/check")"

! wanted tests || (($(left) <= 0)) || run_tests
((device != 0)) || {
  ! wanted bench || run_bench
  ! wanted server || run_server
  ! wanted reference || run_reference
  ! wanted sanitizer || run_sanitizer
}
say "$SECONDS seconds"
if ((failed)); then
  say "FAILED"
  exit 1
elif ((device == 3)); then
  say "nothing was run on a device: $(tail -n 1 "$scratch/check")"
  exit 3
elif ((device != 0)); then
  say "FAILED: gpu_bench --check ended with $device"
  exit 1
elif wanted tests && ((tests_run == 0)); then
  say "FAILED: no test was run"
  exit 5
fi
say "passed"
