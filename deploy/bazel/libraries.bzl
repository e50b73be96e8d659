"""The libraries of the distribution that this project builds on."""

load("//deploy/bazel:clang_toolchain.bzl", "clang_toolchain")
load("//deploy/bazel:cuda.bzl", "local_cuda")
load("//deploy/bazel:pkg_config.bzl", "pkg_config_library")
load("//deploy/bazel:private_library.bzl", "private_library")

_ABSL = [
    "base",
    "cleanup",
    "cord",
    "fixed_array",
    "flags",
    "flags_parse",
    "flags_reflection",
    "flags_usage",
    "flat_hash_map",
    "flat_hash_set",
    "function_ref",
    "hash",
    "inlined_vector",
    "memory",
    "raw_logging_internal",
    "span",
    "status",
    "statusor",
    "str_format",
    "strings",
    "synchronization",
    "time",
]

def system_libraries():
    clang_toolchain(name = "clang_toolchain")
    local_cuda(name = "cuda")
    pkg_config_library(name = "absl", modules = ["absl_" + m for m in _ABSL])
    pkg_config_library(name = "benchmark", modules = ["benchmark"])

    pkg_config_library(name = "grpc", modules = ["grpc++"])

    # With GoogleMock, and a main() for tests that have none.
    pkg_config_library(name = "gtest", modules = ["gmock"], linkopts = ["-lgtest_main"])
    pkg_config_library(name = "hiredis", modules = ["hiredis"])
    pkg_config_library(name = "hwy", modules = ["libhwy"])
    pkg_config_library(name = "libedit", modules = ["libedit"])
    pkg_config_library(name = "nlohmann_json", modules = ["nlohmann_json"])

    # Only the benchmarks use it, as the yardstick for matrix products.
    pkg_config_library(name = "openblas", modules = ["openblas"])

    # Also behind gRPC's TLS.
    pkg_config_library(name = "openssl", modules = ["openssl"])
    pkg_config_library(name = "pcre2", modules = ["libpcre2-8"])
    pkg_config_library(name = "prometheus", modules = ["prometheus-cpp-core"])
    pkg_config_library(name = "protobuf", modules = ["protobuf"])

    # Debian's SentencePiece contains Protocol Buffers 3.14 and shows all of it; in one process with
    # 3.21, each would call the other's functions, and the first to notice ends the process.
    private_library(
        name = "sentencepiece",
        hidden = ["6google8protobuf", "4absl"],
        module = "sentencepiece",
    )
    pkg_config_library(name = "utf8proc", modules = ["libutf8proc"])
