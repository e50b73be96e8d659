#include "models/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/json.h"

namespace packrat {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // As in the format's own library.
constexpr size_t kMaxIndexBytes = 16 << 20;

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

absl::Status Invalid(const std::string& file, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", why));
}

// Shard file name of every tensor, from the index's weight_map.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<Json> json = ParseJson(text->data(), text->size(), path);
  if (!json.ok()) return json.status();
  if (!json->is_object() || !json->contains("weight_map") || !(*json)["weight_map"].is_object()) {
    return Invalid(path, "weight_map must be an object of tensor names and file names");
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : (*json)["weight_map"].items()) {
    const std::string where = absl::StrCat(path, ": weight_map: tensor ", Quoted(tensor));
    if (!shard.is_string()) return Invalid(where, "its file name must be a string");
    const std::string& name = shard.get_ref<const std::string&>();
    // Plain names only: an index must not reach outside its folder.
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string("/\0", 2)) != std::string::npos) {
      return Invalid(where, absl::StrCat("file ", Quoted(name), " is no plain file name"));
    }
    shards[tensor] = name;
  }
  if (shards.empty()) return Invalid(path, "weight_map is empty");
  return shards;
}

}  // namespace

int64_t TensorView::NumElements() const {
  int64_t n = 1;
  for (int64_t dim : shape) n *= dim;
  return n;
}

Checkpoint::~Checkpoint() {
  for (const Mapping& mapping : mappings_) munmap(mapping.base, mapping.bytes);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::OpenFile(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->where_ = path;
  const absl::Status status = checkpoint->AddFile(path);
  if (!status.ok()) return status;
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& dir) {
  const std::string single = dir + "/" + kSingle, index = dir + "/" + kIndex;
  if (access(single.c_str(), F_OK) == 0) return OpenFile(single);
  if (access(index.c_str(), F_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(dir, ": has neither ", kSingle, " nor ", kIndex));
  }
  absl::StatusOr<std::map<std::string, std::string>> shards = ReadIndex(index);
  if (!shards.ok()) return shards.status();

  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->where_ = index;
  std::map<std::string, size_t> opened;  // Full path of a shard, to its number of listed tensors.
  for (const auto& [tensor, shard] : *shards) {
    const std::string path = dir + "/" + shard;
    if (++opened[path] > 1) continue;
    const absl::Status status = checkpoint->AddFile(path);
    if (!status.ok()) return status;
  }
  for (const auto& [tensor, shard] : *shards) {
    const auto found = checkpoint->tensors_.find(tensor);
    if (found == checkpoint->tensors_.end() || found->second.file != dir + "/" + shard) {
      return Invalid(
          dir + "/" + shard,
          absl::StrCat("tensor ", Quoted(tensor), ": not in this file, but ", kIndex, " says so"));
    }
  }
  for (const auto& [tensor, view] : checkpoint->tensors_) {
    if (shards->count(tensor) == 0) {
      return Invalid(view.file, absl::StrCat("tensor ", Quoted(tensor),
                                             ": not in the weight_map of ", kIndex));
    }
  }
  return checkpoint;
}

absl::StatusOr<TensorView> Checkpoint::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  return Invalid(where_, absl::StrCat("tensor ", Quoted(name), ": missing"));
}

void Checkpoint::Release(const TensorView& tensor) const {
  // Whole pages, also the ones shared with a neighbour: clean pages of a file come back on demand.
  const uintptr_t page = sysconf(_SC_PAGESIZE);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(tensor.data) + tensor.bytes;
  if (tensor.bytes > 0) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  // O_NONBLOCK: a FIFO must not make us wait.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  struct stat info = {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const uint64_t bytes = regular ? info.st_size : 0;
  void* base = MAP_FAILED;
  if (bytes >= 8) base = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  const int mmap_errno = errno;
  close(fd);
  if (!regular) return Invalid(path, "not a regular file");
  if (bytes < 8) {
    return Invalid(path, absl::StrCat("has ", bytes, " bytes, too short for a safetensors file"));
  }
  if (base == MAP_FAILED) {
    return Invalid(path, absl::StrCat("cannot map: ", std::strerror(mmap_errno)));
  }
  mappings_.push_back({base, bytes});

  const uint8_t* file = static_cast<const uint8_t*>(base);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | file[i];
  if (header_bytes > bytes - 8 || header_bytes > kMaxHeaderBytes) {
    return Invalid(path,
                   absl::StrCat("header of ", header_bytes, " bytes, the limit is ",
                                std::min(bytes - 8, kMaxHeaderBytes),
                                header_bytes > bytes - 8 ? " (truncated or no safetensors)" : ""));
  }
  const size_t data_offset = 8 + header_bytes;
  auto tensors = ParseSafetensorsHeader(reinterpret_cast<const char*>(file + 8), header_bytes,
                                        file + data_offset, bytes - data_offset, path);
  if (!tensors.ok()) return tensors.status();
  for (auto& [name, view] : *tensors) {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) {
      return Invalid(path, absl::StrCat("tensor ", Quoted(name), ": also in ", found->second.file));
    }
    tensors_.emplace(name, std::move(view));
  }
  return absl::OkStatus();
}

}  // namespace packrat
