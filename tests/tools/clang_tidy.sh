#!/usr/bin/env bash
# clang_tidy.sh PROGRAM STAMP SOURCE COMPILER_FLAGS...: writes STAMP if clang-tidy has nothing to say.
set -eu
program=$1 stamp=$2 source=$3
shift 3
if ! out=$("$program" --quiet "$source" -- "$@" 2>&1); then
  # Leave out "N warnings generated", which counts what stands in system headers.
  sed -e "s|^$PWD/||" -e "/ warnings\\? generated\\.\$/d" <<<"$out" >&2
  exit 1
fi
touch "$stamp"
