#!/usr/bin/env bash
# Makes a container image of programs that are built:
#
#   image.sh TARGET TAG SERVER CLIENT [CUDA_LIBRARY]
#
# TARGET is cpu, bare (without a model) or cuda; TAG the name of the image. The tool is the one in
# PACKRAT_IMAGE_TOOL, else the first that works of docker, podman and buildah. Nothing is fetched: the image is
# what is installed here. SOURCE_DATE_EPOCH, in seconds, is the time of all files; PACKRAT_REVISION a label.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

target=$1 tag=$2 server=$(readlink -e "$3") client=$(readlink -e "$4") cuda=${5:+$(readlink -e "$5")}
: "${SOURCE_DATE_EPOCH:?}"
export SOURCE_DATE_EPOCH PYTHONDONTWRITEBYTECODE=1
fail() {
  echo "image.sh: $*" >&2
  exit 1
}
case $target in
  cpu | bare) cuda='' ;;
  cuda) [[ -n $cuda ]] || fail "the target cuda needs the library of the CUDA backend" ;;
  *) fail "the target '$target' is none of cpu, bare and cuda" ;;
esac

works() {
  case $1 in
    docker) docker info ;;
    *) "$1" --version ;;
  esac >/dev/null 2>&1
}
tool=${PACKRAT_IMAGE_TOOL:-}
if [[ -n $tool ]]; then
  works "$tool" || fail "$tool, as PACKRAT_IMAGE_TOOL says, does not work here"
else
  for tool in docker podman buildah none; do works "$tool" && break; done
  [[ $tool != none ]] || fail "none of docker, podman and buildah works here"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/../package/tree.py" --kind=image --output="$work/root" --server="$server" --client="$client" \
  ${cuda:+--cuda="$cuda"}
version=$("$server" --version)
flags=(--file "$here/Containerfile" --target "$target" --tag "$tag"
  --build-arg "VERSION=${version#* }" --build-arg "REVISION=${PACKRAT_REVISION:-unknown}"
  --build-arg "CREATED=$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)")
# Docker's format of images: OCI's has no health command.
[[ $tool == docker ]] || flags+=(--format docker --timestamp "$SOURCE_DATE_EPOCH")
"$tool" build --quiet "${flags[@]}" "$work" >"$work/id" || fail "$tool build failed"
printf '%s %s\n' "$tag" "$(tail -n 1 "$work/id")"
