#include "models/tools/output_folder.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace packrat {

namespace fs = std::filesystem;

absl::Status FillOutputFolder(const std::string& dir, absl::FunctionRef<absl::Status()> fill) {
  std::error_code error;
  const bool made = fs::create_directories(dir, error);
  if (error || !fs::is_directory(dir)) {
    return absl::InvalidArgumentError(absl::StrCat("output: cannot make folder ", dir, ": ",
                                                   error ? error.message() : "it is a file"));
  }
  if (!fs::is_empty(dir, error) || error) {
    return absl::InvalidArgumentError(absl::StrCat("output: folder ", dir, " is not empty"));
  }
  absl::Cleanup remove = [&dir, made] {
    std::error_code none;
    if (made) {
      fs::remove_all(dir, none);
      return;
    }
    for (const auto& entry : fs::directory_iterator(dir, none)) fs::remove_all(entry.path(), none);
  };
  absl::Status status = fill();
  if (status.ok()) std::move(remove).Cancel();
  return status;
}

}  // namespace packrat
