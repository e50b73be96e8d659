# shellcheck shell=bash
# What ./dev installs: the packages by what needs them, and how they come. Read by ./dev, which has set
# CACHE_HOME and defines say and die.

# PyPI's packages that tests use.
PYTHON_LIST=deploy/requirements-test.txt

# What `serve` and the client need to be built, ...
BUILD_PACKAGES=(python3 bazel-bootstrap bazel-rules-java g++ pkg-config protobuf-compiler
  protobuf-compiler-grpc libprotobuf-dev libgrpc++-dev libabsl-dev prometheus-cpp-dev
  libsentencepiece-dev libpcre2-dev libutf8proc-dev libhwy-dev libboost-dev libssl-dev
  nlohmann-json3-dev libhiredis-dev libedit-dev)
# ... what makes packages and images of them, ...
PACKAGE_PACKAGES=(git patchelf binutils dpkg-dev debhelper buildah)
# ... what Python clients need, ...
PYTHON_PACKAGES=(python3-grpcio python3-protobuf)
# ... and what the tests, the benchmarks and the checks need besides.
TEST_PACKAGES=(libgtest-dev libgmock-dev libbenchmark-dev libopenblas-dev mbw clang
  libclang-rt-14-dev prometheus haproxy openssl python3-yaml python3-numpy python3-torch
  python3-sentencepiece python3-venv lintian mandoc man-db systemd
  clang-format shellcheck pyflakes3 procps curl redis-server chromium-headless-shell)
# Debian's kubectl, unless there is another one, whose package would be in its way.
command -v kubectl >/dev/null || TEST_PACKAGES+=(kubernetes-client)

# Prints the packages of the arguments that are not installed.
missing() {
  # dpkg-query fails where it does not know a package; what it prints is what counts.
  local have package
  have=" $({ dpkg-query -W -f '${db:Status-Status}:${Package} ' "$@" 2>/dev/null || true; }) "
  for package in "$@"; do
    [[ $have == *" installed:$package "* ]] || printf '%s\n' "$package"
  done
}

deps() {
  case ${1:-all} in
    build) debian_packages "${BUILD_PACKAGES[@]}" ;;
    package) debian_packages "${BUILD_PACKAGES[@]}" "${PACKAGE_PACKAGES[@]}" ;;
    python) debian_packages "${BUILD_PACKAGES[@]}" "${PYTHON_PACKAGES[@]}" ;;
    test | all)
      debian_packages "${BUILD_PACKAGES[@]}" "${PACKAGE_PACKAGES[@]}" "${PYTHON_PACKAGES[@]}" \
        "${TEST_PACKAGES[@]}"
      python_packages
      ;;
    *) die "deps: '$1' is none of build, package, python and test" ;;
  esac
}

# Installs the packages of the arguments. A subshell, so that its trap runs before anything else is started.
debian_packages() (
  command -v dpkg-query >/dev/null || die "this needs Debian 12 or a system with its packages"
  mapfile -t lacking < <(missing "$@")
  ((${#lacking[@]})) || exit 0

  install=(apt-get install -y -qq --no-install-recommends "${lacking[@]}")
  if ((EUID == 0)); then
    as_root=(env DEBIAN_FRONTEND=noninteractive)
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
    as_root=(sudo env DEBIAN_FRONTEND=noninteractive)
  else
    die "packages are missing, and installing them needs root. Ask an administrator for:
  ${install[*]}"
  fi
  say "installing ${lacking[*]}"
  # Debian starts a service as soon as its package is installed; nobody asked for a running one.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    "${as_root[@]}" sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy"
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" "${install[@]}" >/dev/null
  # A running Bazel server remembers which libraries were missing.
  bazel shutdown >/dev/null 2>&1 || true
)

# Prints the path of the tests' virtual environment. Checkouts with other lists have another one.
python_env() {
  printf '%s/packrat-python/%s\n' "$CACHE_HOME" "$(sha256sum "$PYTHON_LIST" | cut -c 1-16)"
}

# Makes that environment, which sees Debian's packages too. One without the file `complete` was interrupted.
python_packages() (
  env=$(python_env)
  [[ ! -e $env/complete ]] || exit 0
  mkdir -p "${env%/*}"
  exec 9>"$env.lock"
  flock 9
  [[ ! -e $env/complete ]] || exit 0
  say "installing the packages of $PYTHON_LIST"
  # Environments of older lists have had their time.
  find "${env%/*}" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +
  rm -rf "$env"
  # Debian's interpreter, as the tests use it, whatever comes first in PATH.
  /usr/bin/python3 -m venv --system-site-packages "$env" >&2
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    --requirement "$PYTHON_LIST" >&2 || die "the packages of $PYTHON_LIST could not be installed"
  touch "$env/complete"
)
