#include "models/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "models/build_id.h"

namespace packrat {
namespace {

constexpr char kName[] = "libpackrat_cuda.so";
constexpr char kFunction[] = "packrat_cuda_backend";

absl::StatusOr<const gpu::Backend*> Open(const std::string& path) {
  // RTLD_NOW: a missing symbol is an error now rather than a crash later. RTLD_LOCAL: no other
  // library sees its symbols.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(path, " cannot be loaded: ", dlerror()));
  }
  auto* function = reinterpret_cast<decltype(&packrat_cuda_backend)>(dlsym(library, kFunction));
  if (function == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is not a CUDA backend of Packrat: ", dlerror()));
  }
  const gpu::Backend* backend = function();
  if (std::strcmp(backend->build_id, kBuildId) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is of another build (", backend->build_id, "; this program is ",
                     kBuildId, "): install both from one package"));
  }
  return backend;
}

absl::StatusOr<const gpu::Backend*> Find() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    return absl::NotFoundError(
        absl::StrCat(kName, " was not looked for: /proc/self/exe: ", error.message()));
  }
  const std::filesystem::path folder = program.parent_path();
  std::string tried;
  for (const std::filesystem::path& place : {folder, folder.parent_path() / "lib" / "packrat"}) {
    const std::string path = place / kName;
    if (access(path.c_str(), F_OK) == 0) return Open(path);
    absl::StrAppend(&tried, tried.empty() ? "" : " nor ", path);
  }
  return absl::NotFoundError(absl::StrCat(kName,
                                          ", the CUDA backend, is not installed: there is neither ",
                                          tried, "; use --device=cpu or auto"));
}

}  // namespace

absl::StatusOr<const gpu::Backend*> CudaBackend() {
  static const auto* const backend = new absl::StatusOr<const gpu::Backend*>(Find());
  return *backend;
}

}  // namespace packrat
