#!/usr/bin/env bash
# clang_tidy.sh STAMP SOURCE COMPILER_FLAGS...: writes STAMP if clang-tidy has nothing to say.
set -eu
stamp=$1 source=$2
shift 2
if ! out=$(clang-tidy --quiet "$source" -- "$@" 2>&1); then
  # Leave out "N warnings generated", which counts what stands in system headers.
  sed -e "s|^$PWD/||" -e "/ warnings\\? generated\\.\$/d" <<<"$out" >&2
  exit 1
fi
touch "$stamp"
