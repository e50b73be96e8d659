#!/usr/bin/env bash
# Runs a libFuzzer target; what makes it fail is kept among the test's outputs.
set -eu
exec "$@" "-artifact_prefix=$TEST_UNDECLARED_OUTPUTS_DIR/"
