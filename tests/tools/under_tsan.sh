#!/usr/bin/env bash
# Runs a test under ThreadSanitizer with the suppressions that stand beside this script.
set -eu
supp=$(dirname "$(readlink -f "$0")")/tsan.supp
export TSAN_OPTIONS="suppressions=$supp ignore_noninstrumented_modules=1 halt_on_error=0 second_deadlock_stack=1 exitcode=66"
exec "$@"
