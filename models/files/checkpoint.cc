#include "models/files/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/files/json.h"

namespace packrat {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // As in the format's own library.
constexpr size_t kMaxIndexBytes = 16 << 20;

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kComputed[] = "rotary_emb.inv_freq";

absl::Status Invalid(const std::string& file, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", why));
}

// The shard of every tensor, from the index's weight_map.
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
      return Invalid(where, absl::StrCat("file ", Quoted(name), " is not a plain file name"));
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

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::OpenFile(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->where_ = path;
  const absl::Status status = checkpoint->AddFile(path);
  if (!status.ok()) return status;
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& dir) {
  const std::string single = dir + "/" + kSingle, index = dir + "/" + kIndex;
  // lstat(), so that a link to nothing is found, and then refused by name.
  struct stat info;
  if (lstat(single.c_str(), &info) == 0) return OpenFile(single);
  if (lstat(index.c_str(), &info) != 0) {
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
    if (!checkpoint->Knows(tensor, dir + "/" + shard)) {
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

bool Checkpoint::Knows(const std::string& name, const std::string& file) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second.file == file;
  const auto other = others_.find(name);
  return other != others_.end() && other->second.file == file;
}

absl::StatusOr<TensorView> Checkpoint::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  const auto other = others_.find(name);
  if (other != others_.end()) {
    return Invalid(other->second.file,
                   absl::StrCat("tensor ", Quoted(NameInFile(name)), " has dtype ",
                                other->second.dtype, "; a weight must be F32, BF16 or F16"));
  }
  return Invalid(where_, absl::StrCat("tensor ", Quoted(NameInFile(name)), ": missing"));
}

absl::Status Checkpoint::Read(const TensorView& tensor, size_t first, size_t bytes,
                              void* to) const {
  PACKRAT_CHECK(first <= tensor.bytes && bytes <= tensor.bytes - first)
      << first << " + " << bytes << " of " << tensor.bytes;
  return files_[tensor.file_number].Read(tensor.offset + first, bytes, to);
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  absl::StatusOr<File> opened = File::Open(path);
  if (!opened.ok()) return opened.status();
  const File& file = files_.emplace_back(*std::move(opened));
  const uint64_t bytes = file.bytes();
  if (bytes < 8) {
    return Invalid(path, absl::StrCat("has ", bytes, " bytes, too short for a safetensors file"));
  }
  uint8_t length[8];
  absl::Status status = file.Read(0, sizeof length, length);
  if (!status.ok()) return status;
  if (std::memcmp(length, "version ", sizeof length) == 0) {
    return Invalid(path, "a pointer of Git LFS; `git lfs pull` brings the file itself");
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | length[i];
  if (header_bytes > bytes - 8 || header_bytes > kMaxHeaderBytes) {
    return Invalid(path,
                   absl::StrCat("header of ", header_bytes, " bytes, the limit is ",
                                std::min(bytes - 8, kMaxHeaderBytes),
                                header_bytes > bytes - 8 ? " (truncated or no safetensors)" : ""));
  }
  std::string header(header_bytes, '\0');
  if (status = file.Read(8, header_bytes, header.data()); !status.ok()) return status;
  const size_t data_offset = 8 + header_bytes;
  auto parsed =
      ParseSafetensorsHeader(header.data(), header_bytes, data_offset, bytes - data_offset, path);
  if (!parsed.ok()) return parsed.status();
  for (auto& [name, view] : parsed->tensors) {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) {
      return Invalid(path, absl::StrCat("tensor ", Quoted(name), ": also in ", found->second.file));
    }
    view.file_number = static_cast<int>(files_.size()) - 1;
    if (absl::EndsWith(name, kComputed)) {
      others_[name] = {TensorTypeName(view.type), path};
    } else {
      tensors_.emplace(name, std::move(view));
    }
  }
  others_.merge(parsed->others);
  return absl::OkStatus();
}

void Checkpoint::Unnest(const std::string& nested, const std::string& plain,
                        const std::vector<std::string>& others) {
  std::unordered_map<std::string, TensorView> tensors;
  for (auto& [name, view] : tensors_) {
    const auto begins = [&n = name](const std::string& other) {
      return absl::StartsWith(n, other);
    };
    if (std::any_of(others.begin(), others.end(), begins)) continue;
    const std::string renamed = begins(nested) ? plain + name.substr(nested.size()) : name;
    if (renamed != name) nested_ = nested, plain_ = plain;
    if (absl::StartsWith(name, plain)) not_nested_.insert(name);
    tensors.emplace(tensors_.count(renamed) > 0 ? name : renamed, std::move(view));
  }
  tensors_ = std::move(tensors);
}

std::string Checkpoint::NameInFile(const std::string& name) const {
  const bool renamed =
      !nested_.empty() && absl::StartsWith(name, plain_) && not_nested_.count(name) == 0;
  return renamed ? nested_ + name.substr(plain_.size()) : name;
}

}  // namespace packrat
