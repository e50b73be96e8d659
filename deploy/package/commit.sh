#!/usr/bin/env bash
# Prints two lines about the commit that is checked out: what it adds to a version, +DAY.ID, with .dirty where
# files differ from it, nothing where a tag says that it is a release; and its time in seconds since 1970,
# unless SOURCE_DATE_EPOCH says another one.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

suffix='' time=${SOURCE_DATE_EPOCH:-}
if git rev-parse -q --verify HEAD >/dev/null 2>&1; then
  suffix=+$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d).$(git rev-parse --short=7 HEAD)
  if [[ -n $(git status --porcelain) ]]; then
    suffix+=.dirty
  elif git describe --exact-match --match 'v[0-9]*' >/dev/null 2>&1; then
    suffix=''
  fi
  time=${time:-$(git log -1 --format=%ct)}
fi
printf '%s\n' "$suffix" "${time:-$(date +%s)}"
