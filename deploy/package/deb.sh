#!/usr/bin/env bash
# deb.sh DIR VERSION CUDA_LIBRARY: DIR/*.deb of the root that tree.py has laid out in DIR/root. Debian's own
# tools do what can be done by rule: dependencies, maintainer scripts, sums, modes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

dir=$1 version=$2 cuda=$3
work=$dir/work
mkdir -p "$work/root/etc/packrat"
cp -rL "$here/debian" "$work/debian"
cp -a "$dir/root/." "$work/root/"
cp "$here/packrat.flags" "$work/root/etc/packrat/packrat.flags"
cat >"$work/debian/changelog" <<END
packrat ($version) unstable; urgency=medium

  * Version $version; the project's history tells what changed.

 -- Packrat maintainers <maintainers@packrat.invalid>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
packages=(-ppackrat)
if [[ -n $cuda ]]; then
  packages+=(-ppackrat-cuda)
  mkdir -p "$work/cuda/lib/systemd/system/packrat.service.d"
  cp -a "$dir/cuda/." "$work/cuda/"
  cp "$here/cuda.conf" "$work/cuda/lib/systemd/system/packrat.service.d/"
fi
# All that debhelper prints is of use only where it failed.
(cd "$work" && DH_OPTIONS="${packages[*]}" DEB_BUILD_OPTIONS=nostrip debian/rules binary) \
  >"$dir/log" 2>&1 || {
  cat "$dir/log" >&2
  exit 1
}
