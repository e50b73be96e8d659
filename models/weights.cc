#include "models/weights.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace packrat {
namespace {

DType ToDType(TensorType type) {
  return type == TensorType::kBF16  ? DType::kBF16
         : type == TensorType::kF16 ? DType::kF16
                                    : DType::kF32;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

uint64_t Mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

}  // namespace

uint64_t HashBytes(uint64_t hash, const void* data, size_t bytes) {
  // Four chains, since one would wait for its own multiplications.
  const auto* p = static_cast<const unsigned char*>(data);
  uint64_t lanes[4] = {hash, hash + 1, hash + 2, hash + 3};
  size_t i = 0;
  for (; i + 32 <= bytes; i += 32) {
    uint64_t words[4];
    std::memcpy(words, p + i, 32);
    for (int lane = 0; lane < 4; ++lane) lanes[lane] = Mix(lanes[lane], words[lane]);
  }
  hash = Mix(Mix(Mix(lanes[0], lanes[1]), lanes[2]), lanes[3]);
  for (; i < bytes; ++i) hash = Mix(hash, p[i]);
  return Mix(hash, bytes);
}

const TensorView* WeightLoader::Take(const std::string& name, const std::vector<int64_t>& shape) {
  if (!status_.ok()) return nullptr;
  const auto found = checkpoint_->tensors().find(name);
  if (found == checkpoint_->tensors().end()) {
    status_ = checkpoint_->Find(name).status();
    return nullptr;
  }
  const TensorView& view = found->second;
  if (view.shape != shape) {
    status_ = absl::InvalidArgumentError(absl::StrCat(view.file, ": tensor ", name, " has shape ",
                                                      ShapeText(view.shape),
                                                      ", the config asks for ", ShapeText(shape)));
    return nullptr;
  }
  if (view.type == TensorType::kI32) {
    status_ = absl::InvalidArgumentError(absl::StrCat(view.file, ": tensor ", name, " has dtype ",
                                                      TensorTypeName(view.type),
                                                      "; a weight must be F32, BF16 or F16"));
    return nullptr;
  }
  taken_.insert(name);
  hash_ = HashBytes(hash_, name.data(), name.size());
  hash_ = HashBytes(hash_, &view.type, sizeof(view.type));
  hash_ = HashBytes(hash_, shape.data(), shape.size() * sizeof(int64_t));
  return &view;
}

PackedMatrix WeightLoader::Matrix(const std::string& name, int out, int in) {
  return MatrixRows(name, out, in, 0, out);
}

PackedMatrix WeightLoader::MatrixRows(const std::string& name, int out, int in, int first,
                                      int rows) {
  const StoredRows stored = Rows(name, out, in, first, rows);
  if (stored.data == nullptr) return PackedMatrix();
  PackedMatrix matrix(stored.data, stored.type, rows, in);
  Release(name);
  bytes_ += matrix.bytes();
  return matrix;
}

WeightLoader::StoredRows WeightLoader::Rows(const std::string& name, int out, int in, int first,
                                            int rows) {
  const TensorView* view = Take(name, {out, in});
  if (view == nullptr) return StoredRows();
  const DType type = ToDType(view->type);
  const size_t row_bytes = static_cast<size_t>(in) * DTypeBytes(type);
  const StoredRows stored{view->data + static_cast<size_t>(first) * row_bytes, type,
                          static_cast<size_t>(rows) * row_bytes};
  hash_ = HashBytes(hash_, stored.data, stored.bytes);
  return stored;
}

void WeightLoader::Release(const std::string& name) const {
  const auto found = checkpoint_->tensors().find(name);
  if (found != checkpoint_->tensors().end()) checkpoint_->Release(found->second);
}

std::vector<float> WeightLoader::Floats(const std::string& name,
                                        const std::vector<int64_t>& shape) {
  const TensorView* view = Take(name, shape);
  if (view == nullptr) return std::vector<float>();
  hash_ = HashBytes(hash_, view->data, view->bytes);
  const DType type = ToDType(view->type);
  std::vector<float> values(static_cast<size_t>(view->NumElements()));
  // The mapping may be unaligned: through a copy of each element.
  for (size_t i = 0; i < values.size(); ++i) {
    alignas(4) unsigned char element[4];
    std::memcpy(element, view->data + i * DTypeBytes(type), DTypeBytes(type));
    values[i] = LoadAsFloat(element, 0, type);
  }
  bytes_ += values.size() * sizeof(float);
  return values;
}

absl::Status WeightLoader::Finish() const {
  if (!status_.ok()) return status_;
  std::vector<std::string> surplus;
  for (const auto& [name, view] : checkpoint_->tensors()) {
    if (taken_.count(name) == 0) surplus.push_back(absl::StrCat(view.file, ": ", name));
  }
  if (surplus.empty()) return absl::OkStatus();
  std::sort(surplus.begin(), surplus.end());
  const size_t shown = std::min<size_t>(surplus.size(), 5);
  return absl::InvalidArgumentError(absl::StrCat(
      surplus.size(), " surplus tensor(s) that the config has no place for: ",
      absl::StrJoin(surplus.begin(), surplus.begin() + static_cast<ptrdiff_t>(shown), "; "),
      surplus.size() > shown ? "; ..." : ""));
}

}  // namespace packrat
