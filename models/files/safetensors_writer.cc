// Writes safetensors files.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/check.h"
#include "models/files/checkpoint.h"
#include "models/files/json.h"

namespace packrat {
namespace {

std::string HeaderOf(const std::vector<TensorToWrite>& tensors) {
  std::string header = "{";
  const bool quantized = std::any_of(tensors.begin(), tensors.end(),
                                     [](const auto& tensor) { return IsQuantized(tensor.type); });
  if (quantized) {
    absl::StrAppend(&header, "\"__metadata__\":{\"", kQuantizationKey, "\":\"",
                    kQuantizationVersion, "\"}");
  }
  uint64_t begin = 0;
  for (const TensorToWrite& tensor : tensors) {
    const uint64_t end = begin + TensorBytes(tensor.type, tensor.shape);
    const std::string name = Json(tensor.name).dump(-1, ' ', false, Json::error_handler_t::replace);
    absl::StrAppend(&header, header.size() > 1 ? "," : "", name, ":{\"dtype\":\"",
                    IsQuantized(tensor.type) ? "U8" : TensorTypeName(tensor.type), "\",\"shape\":[",
                    absl::StrJoin(StoredShape(tensor.type, tensor.shape), ","),
                    "],\"data_offsets\":[", begin, ",", end, "]}");
    begin = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // The data begins 8-byte aligned.
  return header;
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors) {
  std::unordered_set<std::string> names;
  for (const TensorToWrite& tensor : tensors) {
    const bool negative =
        std::any_of(tensor.shape.begin(), tensor.shape.end(), [](int64_t dim) { return dim < 0; });
    if (negative || !names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", Quoted(tensor.name), ": ",
                                                     negative ? "negative shape" : "given twice"));
    }
  }
  const std::string header = HeaderOf(tensors);
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<uint8_t>(uint64_t{header.size()} >> (8 * i));

  // The file gets its name when all is written, so a reader never sees half a file. A link stays a
  // link, and something else, such as /dev/null, is not replaced by a file.
  std::error_code none;
  const std::filesystem::path resolved = std::filesystem::weakly_canonical(path, none);
  const std::string target = none ? path : resolved.string();
  const auto kind = std::filesystem::status(target, none).type();
  if (kind != std::filesystem::file_type::regular &&
      kind != std::filesystem::file_type::not_found) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot write: it is not a file"));
  }
  const std::string partial = target + ".partial";
  // Removes what an earlier run left. If somebody put a link there, it is removed too, not
  // followed.
  std::filesystem::remove(partial, none);
  const auto failed = [&path] {
    return absl::InternalError(absl::StrCat(path, ": cannot write: ", std::strerror(errno)));
  };
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  std::FILE* file = fd < 0 ? nullptr : fdopen(fd, "wb");
  if (file == nullptr) return failed();
  absl::Cleanup remove = [&partial] { std::remove(partial.c_str()); };
  absl::Cleanup close = [file] { std::fclose(file); };
  const auto write = [file](const void* data, size_t bytes) {
    return bytes == 0 || std::fwrite(data, 1, bytes, file) == bytes;
  };
  if (!write(length, 8) || !write(header.data(), header.size())) return failed();
  std::vector<uint8_t> made;
  for (const TensorToWrite& tensor : tensors) {
    const size_t bytes = TensorBytes(tensor.type, tensor.shape);
    const void* data = tensor.data;
    if (tensor.make) {
      made.clear();
      if (const absl::Status status = tensor.make(&made); !status.ok()) return status;
      PACKRAT_CHECK(made.size() == bytes);
      data = made.data();
    }
    if (!write(data, bytes)) return failed();
  }
  std::move(close).Cancel();
  if (std::fclose(file) != 0 || std::rename(partial.c_str(), target.c_str()) != 0) return failed();
  std::move(remove).Cancel();
  return absl::OkStatus();
}

}  // namespace packrat
