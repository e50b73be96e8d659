// Reads the safetensors header, strictly and without building a JSON value.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/files/checkpoint.h"
#include "models/files/json.h"

namespace packrat {
namespace {

constexpr size_t kMaxRank = 8;
constexpr size_t kMaxTensors = 1 << 17;

constexpr int64_t kGroup = 32;  // Of quantised weights.

int64_t GroupBytes(TensorType type) { return type == TensorType::kInt8 ? 34 : 20; }

// For types that are not quantised.
size_t TypeBytes(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kI32 ? 4 : 2;
}

// One entry as the header states it.
struct Entry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;  // Begin and end, in bytes from the start of the data.
  bool has_shape = false;
};

// Collects the entries of {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
// "__metadata__": {"k": "v"}} and stops at the first thing that must not be in such a text.
class HeaderSax : public StrictJsonSax {
 public:
  HeaderSax(std::vector<Entry>* entries, std::string* quantization)
      : entries_(entries), quantization_(quantization) {}

  bool null() override { return Expect(kOther, "null"); }
  bool boolean(bool) override { return Expect(kOther, "a boolean"); }
  bool number_float(number_float_t, const string_t& text) override {
    return Expect(kOther, "the number " + text.substr(0, 32));
  }
  bool number_integer(number_integer_t value) override {  // Called for negative numbers only.
    return Expect(kOther, absl::StrCat("the negative number ", value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!Expect(kNumber, "a number")) return false;
    Entry& entry = entries_->back();
    std::vector<uint64_t>& list = field_ == "shape" ? entry.shape : entry.offsets;
    if (list.size() == kMaxRank) {
      return Fail(absl::StrCat(Where(), "more than ", kMaxRank, " numbers"));
    }
    list.push_back(value);
    return true;
  }
  bool string(string_t& value) override {
    if (!Expect(kString, "a string")) return false;
    if (!in_metadata_) entries_->back().dtype = value.substr(0, 32);
    if (in_metadata_ && field_ == kQuantizationKey) *quantization_ = value.substr(0, 32);
    return true;
  }
  bool start_object(size_t n) override {
    return Expect(kObject, "an object") && StrictJsonSax::start_object(n);
  }
  bool start_array(size_t n) override {
    if (!Expect(kArray, "an array")) return false;
    if (field_ == "shape") entries_->back().has_shape = true;
    return StrictJsonSax::start_array(n);
  }
  bool key(string_t& name) override {
    if (depth() == 1) return StartEntry(name);
    if (!StrictJsonSax::key(name)) return Fail(Where() + error());
    if (in_metadata_) {
      field_ = name;
      return true;
    }
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return Fail(absl::StrCat(Where(), "unknown field ", Quoted(name)));
    }
    field_ = name;
    return true;
  }
  bool end_object() override {
    field_.clear();
    return StrictJsonSax::end_object();
  }

 private:
  enum Kind { kObject, kArray, kString, kNumber, kOther };

  bool StartEntry(string_t& name) {
    if (!StrictJsonSax::key(name))
      return Fail(absl::StrCat("tensor ", Quoted(name), ": ", error()));
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) return true;
    if (entries_->size() == kMaxTensors) {
      return Fail(absl::StrCat("more than ", kMaxTensors, " tensors"));
    }
    entries_->emplace_back();
    entries_->back().name = name;
    return true;
  }

  bool Expect(Kind got, const std::string& what) {
    Kind want = kObject;
    if (depth() == 2) want = in_metadata_ || field_ == "dtype" ? kString : kArray;
    if (depth() == 3) want = kNumber;
    if (got == want) return true;
    static constexpr const char* kNames[] = {"an object", "an array", "a string",
                                             "a non-negative integer"};
    return Fail(absl::StrCat(Where(), what, " where ", kNames[want], " belongs"));
  }

  std::string Where() const {
    if (depth() == 0) return "";
    if (in_metadata_) return "__metadata__: ";
    if (entries_->empty()) return "";
    return absl::StrCat("tensor ", Quoted(entries_->back().name), ": ", field_,
                        field_.empty() ? "" : ": ");
  }

  std::vector<Entry>* entries_;
  std::string* quantization_;  // The version that the metadata states.
  std::string field_;
  bool in_metadata_ = false;
};

bool ReadType(const std::string& dtype, TensorType* type) {
  for (TensorType known :
       {TensorType::kF32, TensorType::kBF16, TensorType::kF16, TensorType::kI32}) {
    if (dtype != TensorTypeName(known)) continue;
    *type = known;
    return true;
  }
  return false;
}

// Bytes of an element, for the types of counters and masks; 0 for other types. Numbers of other
// types might be weights, which must not be left out silently.
size_t OtherTypeBytes(const std::string& dtype) {
  if (dtype == "BOOL" || dtype == "U8" || dtype == "I8") return 1;
  if (dtype == "U16" || dtype == "I16") return 2;
  if (dtype == "U32") return 4;
  return dtype == "I64" || dtype == "U64" ? 8 : 0;
}

// Checks one entry by itself and makes its view. The view's type has no meaning if the entry has
// none of our types. Messages do not name file and tensor.
absl::StatusOr<TensorView> MakeView(const Entry& entry, size_t data_offset, size_t data_bytes) {
  TensorView view;
  const bool known = ReadType(entry.dtype, &view.type);
  const size_t size = known ? TypeBytes(view.type) : OtherTypeBytes(entry.dtype);
  if (size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype ", Quoted(entry.dtype), " is not one of F32, BF16, F16, I32"));
  }
  if (!entry.has_shape) return absl::InvalidArgumentError("no shape");
  if (entry.offsets.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("data_offsets has ", entry.offsets.size(), " numbers, must have 2"));
  }
  const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
  if (begin > end || end > data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("data_offsets [", begin, ", ", end,
                                                   "] are outside the file's ", data_bytes,
                                                   " bytes of data"));
  }
  // A zero counts as one here, so that it cannot hide an absurd dimension.
  auto bytes = static_cast<int64_t>(size);
  bool empty = false;
  for (uint64_t dim : entry.shape) {
    int64_t product;
    if (dim > INT64_MAX || __builtin_mul_overflow(bytes, std::max<int64_t>(dim, 1), &product)) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape [", absl::StrJoin(entry.shape, ", "), "] is too large"));
    }
    bytes = product;
    empty = empty || dim == 0;
    view.shape.push_back(static_cast<int64_t>(dim));
  }
  if (empty) bytes = 0;
  if (static_cast<uint64_t>(bytes) != end - begin) {
    return absl::InvalidArgumentError(absl::StrCat("shape [", absl::StrJoin(entry.shape, ", "),
                                                   "] of ", entry.dtype, " takes ", bytes,
                                                   " bytes, data_offsets say ", end - begin));
  }
  view.offset = data_offset + begin;
  view.bytes = end - begin;
  return view;
}

// Turns a tensor of U8 into the quantised weight that it holds.
absl::Status Quantized(TensorView* view) {
  const std::vector<int64_t>& shape = view->shape;
  for (const TensorType type : {TensorType::kInt8, TensorType::kInt4}) {
    if (shape.size() < 3 || shape.size() > 4 || shape.back() != GroupBytes(type)) continue;
    view->type = type;
    view->shape.pop_back();
    view->shape.back() *= kGroup;  // Less than its bytes.
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("shape [", absl::StrJoin(shape, ", "),
                   "] of U8 is not a quantised weight; it must be [out, groups, 34 or 20]"));
}

// The format allows tensors only: no gap, no overlap, nothing behind the last.
absl::Status CheckCoverage(std::vector<const Entry*> entries, size_t data_bytes,
                           const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) {
    return a->offsets != b->offsets ? a->offsets < b->offsets : a->name < b->name;
  });
  uint64_t end = 0;
  const Entry* before = nullptr;
  for (const Entry* entry : entries) {
    if (entry->offsets[0] != end) {
      const std::string what = entry->offsets[0] > end
                                   ? absl::StrCat("begins at byte ", entry->offsets[0],
                                                  ", leaving a gap after byte ", end)
                                   : absl::StrCat("overlaps tensor ", Quoted(before->name));
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": tensor ", Quoted(entry->name), ": ", what));
    }
    end = entry->offsets[1];
    before = entry;
  }
  if (end == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": ", data_bytes - end, " bytes after the last tensor belong to none"));
}

}  // namespace

bool IsQuantized(TensorType type) { return type == TensorType::kInt8 || type == TensorType::kInt4; }

std::vector<int64_t> StoredShape(TensorType type, std::vector<int64_t> shape) {
  if (!IsQuantized(type)) return shape;
  shape.back() /= kGroup;
  shape.push_back(GroupBytes(type));
  return shape;
}

const char* TensorTypeName(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return "F32";
    case TensorType::kBF16:
      return "BF16";
    case TensorType::kF16:
      return "F16";
    case TensorType::kI32:
      return "I32";
    case TensorType::kInt8:
      return "int8";
    case TensorType::kInt4:
      break;
  }
  return "int4";
}

size_t TensorBytes(TensorType type, const std::vector<int64_t>& shape) {
  size_t bytes = IsQuantized(type) ? 1 : TypeBytes(type);
  for (const int64_t dim : StoredShape(type, shape)) bytes *= dim;
  return bytes;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(const char* header, size_t header_bytes,
                                                         size_t data_offset, size_t data_bytes,
                                                         const std::string& file) {
  const absl::Status no_nul = CheckNoNul(header, header_bytes, file + ": header");
  if (!no_nul.ok()) return no_nul;
  std::vector<Entry> entries;
  std::string quantization;
  HeaderSax sax(&entries, &quantization);
  if (!Json::sax_parse(header, header + header_bytes, &sax)) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": header: ", sax.error()));
  }
  if (!quantization.empty() && quantization != kQuantizationVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": __metadata__: ", kQuantizationKey, " is ", Quoted(quantization),
                     "; this version reads ", Quoted(kQuantizationVersion)));
  }
  SafetensorsHeader parsed;
  std::vector<const Entry*> order;
  for (const Entry& entry : entries) {
    absl::StatusOr<TensorView> view = MakeView(entry, data_offset, data_bytes);
    if (!view.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": tensor ", Quoted(entry.name), ": ", view.status().message()));
    }
    view->file = file;
    const bool quantized = !quantization.empty() && entry.dtype == "U8";
    if (quantized) {
      if (absl::Status status = Quantized(&*view); !status.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": tensor ", Quoted(entry.name), ": ", status.message()));
      }
    }
    TensorType type;
    if (quantized || ReadType(entry.dtype, &type)) {
      parsed.tensors.emplace(entry.name, *std::move(view));
    } else {
      parsed.others[entry.name] = {entry.dtype, file};
    }
    order.push_back(&entry);
  }
  const absl::Status coverage = CheckCoverage(std::move(order), data_bytes, file);
  if (!coverage.ok()) return coverage;
  return parsed;
}

}  // namespace packrat
