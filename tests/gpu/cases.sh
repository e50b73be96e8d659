#!/usr/bin/env bash
# Runs some cases of a test, each of which it must have: cases.sh TEST PATTERN...
set -euo pipefail

test=$1
shift
for pattern; do
  if ! "$test" --gtest_list_tests --gtest_filter="$pattern" | grep -q '^  '; then
    echo "$test has no case $pattern" >&2
    exit 1
  fi
done
exec "$test" --gtest_filter="$(IFS=: && echo "$*")"
