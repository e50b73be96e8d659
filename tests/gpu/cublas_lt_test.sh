#!/usr/bin/env bash
# kernels/cublas_lt.h with libraries that stand in for NVIDIA's: which one is opened, that each
# function goes to the one of its name, and what is said where there is none.
set -euo pipefail
calls=$(readlink -f "$1") stand_in=$(readlink -f "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  cat "$work/out" >&2
  exit 1
}
# expect STATUS: with what is in $work/lib.
expect() {
  local status=0
  LD_LIBRARY_PATH=$work/lib "$calls" >"$work/out" || status=$?
  ((status == $1)) || fail "status $status, not $1"
}
says() { grep -q -- "$1" "$work/out" || fail "it does not say '$1'"; }
mkdir "$work/lib"
# In place of what the machine may have of these names.
echo 'no library' >"$work/lib/libcublasLt.so.13"
echo 'no library' >"$work/lib/libcublasLt.so.12"

expect 1
says '^UNAVAILABLE: no cuBLASLt of CUDA 13 or 12: .*/libcublasLt.so.13: .*; .*/libcublasLt.so.12: '

cp "$stand_in" "$work/lib/libcublasLt.so.12"
expect 0
says '/lib/libcublasLt.so.12$'
# In the order of the calls.
cat >"$work/names" <<'NAMES'
cublasLtCreate
cublasLtDestroy
cublasLtMatmulDescCreate
cublasLtMatmulDescDestroy
cublasLtMatmulDescSetAttribute
cublasLtMatrixLayoutCreate
cublasLtMatrixLayoutDestroy
cublasLtMatrixLayoutSetAttribute
cublasLtMatmulPreferenceCreate
cublasLtMatmulPreferenceDestroy
cublasLtMatmulPreferenceSetAttribute
cublasLtMatmulAlgoGetHeuristic
cublasLtMatmul
NAMES
tail -n +2 "$work/out" | cmp - "$work/names" || fail "other functions were called"

cp "$stand_in" "$work/lib/libcublasLt.so.13"
expect 0
says '/lib/libcublasLt.so.13$'

# One that lacks what is needed is as none.
libm=$(ldd "$calls" | sed -n 's/.*libm\.so\.6 => \(\/[^ ]*\) .*/\1/p')
cp "$libm" "$work/lib/libcublasLt.so.13"
expect 0
says '/lib/libcublasLt.so.12$'
echo 'no library' >"$work/lib/libcublasLt.so.12"
expect 1
says 'libcublasLt.so.13 has no cublasLtGetStatusName; .*libcublasLt.so.12: '
echo "passed"
