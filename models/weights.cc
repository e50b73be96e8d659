#include "models/weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/packed_matrix.h"
#include "models/bytes_hash.h"

namespace packrat {
namespace {

DType ToDType(TensorType type) {
  switch (type) {
    case TensorType::kBF16:
      return DType::kBF16;
    case TensorType::kF16:
      return DType::kF16;
    case TensorType::kInt8:
      return DType::kInt8;
    case TensorType::kInt4:
      return DType::kInt4;
    case TensorType::kF32:
    case TensorType::kI32:
      break;
  }
  return DType::kF32;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// A tensor is read by pieces of about so many bytes.
constexpr size_t kPieceBytes = size_t{1} << 20;

// Index of the first NaN or infinity (all bits of the exponent are set), or n.
template <class T>
size_t FirstWithExponent(const uint8_t* data, size_t n, T exponent) {
  const auto at = [&](size_t i) {
    T bits;
    std::memcpy(&bits, data + i * sizeof(T), sizeof(T));
    return (bits & exponent) == exponent;
  };
  bool any = false;  // Without a branch for each, since there is next to never one.
  for (size_t i = 0; i < n; ++i) any |= at(i);
  if (!any) return n;
  size_t i = 0;
  while (!at(i)) ++i;
  return i;
}

// Of quantised types: the first group whose scale or minimum is not finite.
size_t FirstNotFinite(const uint8_t* data, size_t n, DType type) {
  switch (type) {
    case DType::kInt8:
    case DType::kInt4:
      for (size_t i = 0; i < n; ++i) {
        const QuantGroup group = LoadQuantGroup(data + i * StoredGroupBytes(type), type);
        if ((group.scale & 0x7c00) == 0x7c00 || (group.minimum & 0x7c00) == 0x7c00) return i;
      }
      return n;
    case DType::kF32:
      return FirstWithExponent<uint32_t>(data, n, 0x7f800000);
    case DType::kBF16:
      return FirstWithExponent<uint16_t>(data, n, 0x7f80);
    case DType::kF16:
      break;
  }
  return FirstWithExponent<uint16_t>(data, n, 0x7c00);
}

}  // namespace

uint64_t HashBytes(uint64_t hash, const void* data, size_t bytes) {
  BytesHash all(hash);
  all.Add(data, bytes);
  return all.Value();
}

const TensorView* WeightLoader::Take(const std::string& name, const std::vector<int64_t>& shape) {
  if (!status_.ok() && mode_ == Mode::kLoad) return nullptr;
  const auto found = checkpoint_->tensors().find(name);
  if (found == checkpoint_->tensors().end()) {
    Fail(checkpoint_->Find(name).status());
    return nullptr;
  }
  const TensorView& view = found->second;
  taken_.insert(name);
  if (view.shape != shape) {
    Fail(absl::InvalidArgumentError(
        absl::StrCat(view.file, ": tensor ", checkpoint_->NameInFile(name), " has shape ",
                     ShapeText(view.shape), ", the config asks for ", ShapeText(shape))));
    return nullptr;
  }
  if (view.type == TensorType::kI32) {
    Fail(absl::InvalidArgumentError(
        absl::StrCat(view.file, ": tensor ", checkpoint_->NameInFile(name), " has dtype ",
                     TensorTypeName(view.type), "; a weight must be F32, BF16 or F16")));
    return nullptr;
  }
  hash_ = HashBytes(hash_, name.data(), name.size());
  hash_ = HashBytes(hash_, &view.type, sizeof(view.type));
  hash_ = HashBytes(hash_, shape.data(), shape.size() * sizeof(int64_t));
  return &view;
}

DType WeightLoader::TypeOf(const std::string& name) const {
  const auto found = checkpoint_->tensors().find(name);
  return found == checkpoint_->tensors().end() ? DType::kF32 : ToDType(found->second.type);
}

int64_t WeightLoader::LengthOf(const std::string& name) const {
  const auto found = checkpoint_->tensors().find(name);
  const bool has = found != checkpoint_->tensors().end() && !found->second.shape.empty();
  return has ? found->second.shape[0] : 0;
}

bool WeightLoader::HasQuantized() const {
  const auto& tensors = checkpoint_->tensors();
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const auto& tensor) { return IsQuantized(ToDType(tensor.second.type)); });
}

void WeightLoader::Rows(const std::string& name, const std::vector<int64_t>& shape, int first,
                        int rows, absl::FunctionRef<void(const Piece&)> take) {
  const TensorView* view = Take(name, shape);
  if (view == nullptr || mode_ == Mode::kMeasure) return;
  const auto in = static_cast<int>(shape.back());
  const DType type = ToDType(view->type);
  const size_t row_bytes = IsQuantized(type) ? in / kQuantGroup * StoredGroupBytes(type)
                                             : static_cast<size_t>(in) * DTypeBytes(type);
  // Whole panels, which the fingerprint is made of, whoever loads.
  const size_t panels = std::max<size_t>(1, kPieceBytes / (row_bytes * PackedMatrix::kPanel));
  const int step = static_cast<int>(
      std::min<size_t>(panels * PackedMatrix::kPanel, static_cast<size_t>(std::max(rows, 1))));
  for (int done = 0; done < rows; done += step) {
    const int n = std::min(step, rows - done);
    if (!Read(name, *view, (static_cast<size_t>(first) + done) * row_bytes, n * row_bytes)) return;
    take({done, n, buffer_.data(), type});
    if (!status_.ok()) return;
  }
}

void WeightLoader::Groups(const std::string& name, const std::vector<int64_t>& shape, int first,
                          int rows, DType format,
                          absl::FunctionRef<void(int row, int group, const QuantGroup&)> take) {
  const auto in = static_cast<int>(shape.back());
  const int groups = in / kQuantGroup;  // Of a row.
  Rows(name, shape, first, rows, [&](const Piece& piece) {
    const bool stored = piece.type == format;
    wide_.resize(stored ? 0 : static_cast<size_t>(piece.rows) * in);
    WidenStored(piece.data, piece.type, wide_.size(), wide_.data());
    for (int i = 0; i < piece.rows * groups; ++i) {
      const int row = piece.first + i / groups;
      QuantGroup group;
      if (stored) {
        group = LoadQuantGroup(piece.data + i * StoredGroupBytes(format), format);
      } else {
        const float* values = &wide_[static_cast<size_t>(i) * kQuantGroup];
        absl::Status status = QuantizeGroup(values, format, &group);
        if (!status.ok()) {
          return Refuse(name, absl::StrCat("row ", first + row, ": ", status.message()));
        }
      }
      take(row, i % groups, group);
    }
  });
}

void WeightLoader::TakeAgain(absl::FunctionRef<void()> take) {
  const uint64_t hash = hash_;
  take();
  hash_ = hash;
}

bool WeightLoader::Read(const std::string& name, const TensorView& view, size_t first,
                        size_t bytes) {
  buffer_.resize(std::max(buffer_.size(), bytes));
  status_ = checkpoint_->Read(view, first, bytes, buffer_.data());
  if (!status_.ok()) return false;
  hash_ = HashBytes(hash_, buffer_.data(), bytes);
  done_bytes_ += bytes;
  // A tied matrix is read twice.
  if (progress_) progress_(std::min(done_bytes_, total_bytes_), total_bytes_);
  const DType type = ToDType(view.type);
  const size_t unit = IsQuantized(type) ? StoredGroupBytes(type) : DTypeBytes(type);
  const size_t bad = FirstNotFinite(buffer_.data(), bytes / unit, type);
  if (bad == bytes / unit) return true;
  const std::string what = IsQuantized(type)
                               ? absl::StrCat("the scale or minimum of group ", first / unit + bad)
                               : absl::StrCat("element ", first / unit + bad, " is ",
                                              LoadAsFloat(buffer_.data(), bad, type));
  Refuse(name, absl::StrCat("is not finite: ", what));
  return false;
}

void WeightLoader::ReportTo(Progress progress) {
  progress_ = std::move(progress);
  for (const auto& [name, view] : checkpoint_->tensors()) total_bytes_ += view.bytes;
}

void WeightLoader::Fail(absl::Status error) {
  constexpr size_t kMost = 64;
  const std::string message(error.message());
  // A tensor may be taken in parts.
  const bool known = std::find(problems_.begin(), problems_.end(), message) != problems_.end();
  if (!known && problems_.size() < kMost) problems_.push_back(message);
  if (status_.ok()) status_ = std::move(error);
}

std::vector<std::string> WeightLoader::Problems() const {
  std::vector<std::string> problems = problems_;
  if (absl::Status surplus = Surplus(); !surplus.ok()) problems.emplace_back(surplus.message());
  return problems;
}

void WeightLoader::Refuse(const std::string& name, const std::string& why) {
  if (!status_.ok() && mode_ == Mode::kLoad) return;
  const auto found = checkpoint_->tensors().find(name);
  const std::string file =
      found == checkpoint_->tensors().end() ? "" : absl::StrCat(found->second.file, ": ");
  Fail(absl::InvalidArgumentError(
      absl::StrCat(file, "tensor ", checkpoint_->NameInFile(name), " ", why)));
}

std::vector<float> WeightLoader::Floats(const std::string& name,
                                        const std::vector<int64_t>& shape) {
  const TensorView* view = Take(name, shape);
  if (view == nullptr) return {};
  if (IsQuantized(ToDType(view->type))) {
    Refuse(name, "is quantised; it must be F32, BF16 or F16");
    return {};
  }
  const auto size = static_cast<size_t>(view->NumElements());
  float_bytes_ += size * sizeof(float);
  if (mode_ == Mode::kMeasure || !Read(name, *view, 0, view->bytes)) return {};
  std::vector<float> values(size);
  WidenStored(buffer_.data(), ToDType(view->type), size, values.data());
  return values;
}

bool WeightLoader::IsCopy(const TensorView& view) const {
  for (const std::string& name : taken_) {
    const TensorView& other = checkpoint_->tensors().at(name);
    if (other.type != view.type || other.shape != view.shape) continue;
    if (mode_ == Mode::kMeasure) return true;
    std::vector<uint8_t> a(kPieceBytes), b(kPieceBytes);
    size_t done = 0;
    while (done < view.bytes) {
      const size_t n = std::min(kPieceBytes, view.bytes - done);
      if (!checkpoint_->Read(view, done, n, a.data()).ok() ||
          !checkpoint_->Read(other, done, n, b.data()).ok() ||
          std::memcmp(a.data(), b.data(), n) != 0) {
        break;
      }
      done += n;
    }
    if (done == view.bytes) return true;
  }
  return false;
}

absl::Status WeightLoader::Finish() const { return status_.ok() ? Surplus() : status_; }

absl::Status WeightLoader::Surplus() const {
  std::vector<std::string> surplus;
  for (const auto& [name, view] : checkpoint_->tensors()) {
    // A model that ties its matrices has no other place for lm_head.weight.
    if (taken_.count(name) > 0 || view.type == TensorType::kI32) continue;
    const bool head = absl::EndsWith(name, "lm_head.weight");
    if (head && IsCopy(view)) continue;
    surplus.push_back(
        absl::StrCat(view.file, ": ", checkpoint_->NameInFile(name),
                     head ? " (not the embedding, as which tie_word_embeddings has it)" : ""));
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
