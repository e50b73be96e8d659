#include "models/files/gguf.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/files/json.h"

namespace packrat {
namespace {

constexpr uint64_t kMaxMetadata = 1 << 16, kMaxTensors = 1 << 17, kMaxRank = 4;
constexpr uint64_t kMaxText = 64 << 20;  // Bytes of one string; chat templates have some kilobytes.

// Types of metadata.
enum ValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kFloat64 = 12,
};

size_t ScalarBytes(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kFloat32:
      return 4;
    case kU64:
    case kI64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

template <class T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// A scalar that is not a string.
GgufValue Scalar(uint32_t type, const uint8_t* p) {
  using Kind = GgufValue::Kind;
  GgufValue value{Kind::kInteger};
  switch (type) {
    case kU8:
      value.integer = Load<uint8_t>(p);
      break;
    case kI8:
      value.integer = Load<int8_t>(p);  // NOLINT(bugprone-signed-char-misuse): not a character.
      break;
    case kU16:
      value.integer = Load<uint16_t>(p);
      break;
    case kI16:
      value.integer = Load<int16_t>(p);
      break;
    case kU32:
      value.integer = Load<uint32_t>(p);
      break;
    case kI32:
      value.integer = Load<int32_t>(p);
      break;
    case kU64:  // From 2^63 on it becomes negative, and no count may be.
    case kI64:
      value.integer = Load<int64_t>(p);
      break;
    case kBool:
      value.kind = Kind::kBool;
      value.integer = *p != 0 ? 1 : 0;
      break;
    default:
      value.kind = Kind::kFloat;
      value.number = type == kFloat32 ? double{Load<float>(p)} : Load<double>(p);
      return value;
  }
  value.number = static_cast<double>(value.integer);
  return value;
}

// Reads one value after the other. After the first error, which is kept, nothing is read.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size, uint64_t file_bytes, const std::string& file)
      : data_(data), size_(size), file_bytes_(file_bytes), file_(file) {}

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  size_t at() const { return at_; }
  void Fail(const std::string& why) {
    if (ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", why));
  }

  const uint8_t* Take(uint64_t bytes, const std::string& what) {
    if (!ok()) return nullptr;
    if (bytes <= size_ - at_) {
      at_ += bytes;
      return data_ + at_ - bytes;
    }
    if (bytes > file_bytes_ - at_) {
      Fail(absl::StrCat("ends within ", what, " (byte ", at_, ")"));
    } else {
      status_ = absl::OutOfRangeError(file_);
    }
    return nullptr;
  }
  template <class T>
  T Number(const std::string& what) {
    const uint8_t* p = Take(sizeof(T), what);
    return p == nullptr ? T{} : Load<T>(p);
  }
  std::string Text(const std::string& what) {
    const auto bytes = Number<uint64_t>(what);
    if (bytes > kMaxText)
      Fail(absl::StrCat(what, " has ", bytes, " bytes, the limit is ", kMaxText));
    const uint8_t* p = Take(bytes, what);
    return p == nullptr ? "" : std::string(reinterpret_cast<const char*>(p), bytes);
  }
  GgufValue Value(const std::string& what) {
    const auto type = Number<uint32_t>(what);
    if (type == kArray) return Array(what);
    GgufValue value{GgufValue::Kind::kString};
    if (type == kString) {
      value.text = Text(what);
      return value;
    }
    if (ScalarBytes(type) == 0) Fail(absl::StrCat(what, " has the unknown type ", type));
    const uint8_t* p = Take(ScalarBytes(type), what);
    return p == nullptr ? value : Scalar(type, p);
  }

 private:
  GgufValue Array(const std::string& what) {
    const auto type = Number<uint32_t>(what);
    const auto count = Number<uint64_t>(what);
    GgufValue value{GgufValue::Kind::kNumbers};
    const bool texts = type == kString;
    const size_t each = texts ? 8 : ScalarBytes(type);  // At least.
    if (each == 0) Fail(absl::StrCat(what, " is an array of the unknown type ", type));
    if (!ok()) return value;
    // The file must be large enough for all of them. Otherwise a number alone could make us
    // allocate memory.
    if (count > (file_bytes_ - at_) / each) {
      Fail(absl::StrCat(what, " has ", count, " entries, more than the file has room for"));
      return value;
    }
    if (texts) {
      value.kind = GgufValue::Kind::kStrings;
      for (uint64_t i = 0; i < count && ok(); ++i) value.texts.push_back(Text(what));
      return value;
    }
    const uint8_t* p = Take(count * each, what);
    if (p == nullptr) return value;
    value.numbers.reserve(count);
    for (uint64_t i = 0; i < count; ++i) value.numbers.push_back(Scalar(type, p + i * each).number);
    return value;
  }

  const uint8_t* const data_;
  const size_t size_;
  const uint64_t file_bytes_;
  const std::string& file_;
  size_t at_ = 0;
  absl::Status status_;
};

bool Known(uint32_t type) {
  for (const GgufType known :
       {GgufType::kF32, GgufType::kF16, GgufType::kQ4_0, GgufType::kQ4_1, GgufType::kQ8_0,
        GgufType::kQ4_K, GgufType::kQ6_K, GgufType::kBF16}) {
    if (type == static_cast<uint32_t>(known)) return true;
  }
  return false;
}

// One entry of the list of tensors. Its offset is from the beginning of the data.
GgufTensor ReadTensor(Reader* reader, const std::string& what) {
  GgufTensor tensor = {};
  const auto rank = reader->Number<uint32_t>(what);
  if (rank > kMaxRank) reader->Fail(absl::StrCat(what, " has ", rank, " dimensions"));
  int64_t elements = 1;
  for (uint32_t i = 0; i < rank && reader->ok(); ++i) {
    const auto dim = reader->Number<int64_t>(what);
    if (reader->ok() && (dim <= 0 || __builtin_mul_overflow(elements, dim, &elements))) {
      reader->Fail(absl::StrCat(what, " has a dimension of ", dim));
    }
    tensor.shape.insert(tensor.shape.begin(), dim);
  }
  const auto type = reader->Number<uint32_t>(what);
  tensor.offset = reader->Number<uint64_t>(what);
  if (!reader->ok()) return tensor;
  if (!Known(type)) {
    reader->Fail(
        absl::StrCat(what, " has type ", type,
                     ", which is not one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K"));
    return tensor;
  }
  tensor.type = static_cast<GgufType>(type);
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back(),
                block = GgufBlock(tensor.type);
  if (row % block != 0) {
    reader->Fail(absl::StrCat(what, " has rows of ", row, ", no multiple of the ", block, " of ",
                              GgufTypeName(tensor.type)));
  }
  if (__builtin_mul_overflow(static_cast<uint64_t>(elements / block), GgufBlockBytes(tensor.type),
                             &tensor.bytes)) {
    reader->Fail(absl::StrCat(what, " is too large"));
  }
  return tensor;
}

// Checks that all tensors are within the file and do not overlap. Offsets are from the beginning of
// the file.
absl::Status CheckPlaces(const GgufHeader& header, uint64_t file_bytes, const std::string& file) {
  std::vector<std::pair<uint64_t, const std::string*>> order;
  for (const auto& [name, tensor] : header.tensors) {
    if (tensor.offset > file_bytes || tensor.bytes > file_bytes - tensor.offset) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": tensor ", Quoted(name), " ends beyond the file's ", file_bytes,
                       " bytes: it has been cut, or its header is wrong"));
    }
    order.emplace_back(tensor.offset, &name);
  }
  std::sort(order.begin(), order.end());
  for (size_t i = 1; i < order.size(); ++i) {
    const std::string& before = *order[i - 1].second;
    if (order[i - 1].first + header.tensors.at(before).bytes <= order[i].first) continue;
    return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quoted(*order[i].second),
                                                   " overlaps tensor ", Quoted(before)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(const uint8_t* data, size_t size, uint64_t file_bytes,
                                           const std::string& file) {
  Reader reader(data, size, file_bytes, file);
  const uint8_t* magic = reader.Take(4, "the magic");
  if (magic != nullptr && std::memcmp(magic, "GGUF", 4) != 0) reader.Fail("is no GGUF file");
  const auto version = reader.Number<uint32_t>("the version");
  if (reader.ok() && version != 2 && version != 3) {
    reader.Fail(absl::StrCat("is GGUF version ", version, "; 2 and 3 are read"));
  }
  const auto tensors = reader.Number<uint64_t>("the number of tensors");
  const auto values = reader.Number<uint64_t>("the number of metadata");
  if (tensors > kMaxTensors) reader.Fail(absl::StrCat("has ", tensors, " tensors"));
  if (values > kMaxMetadata) reader.Fail(absl::StrCat("has ", values, " metadata"));
  GgufHeader header;
  for (uint64_t i = 0; i < values && reader.ok(); ++i) {
    const std::string key = reader.Text("a metadata key");
    const std::string what = absl::StrCat("metadata ", Quoted(key));
    GgufValue value = reader.Value(what);
    if (reader.ok() && !header.metadata.emplace(key, std::move(value)).second) {
      reader.Fail(absl::StrCat(what, " occurs twice"));
    }
  }
  for (uint64_t i = 0; i < tensors && reader.ok(); ++i) {
    const std::string name = reader.Text("a tensor's name");
    const std::string what = absl::StrCat("tensor ", Quoted(name));
    GgufTensor tensor = ReadTensor(&reader, what);
    if (reader.ok() && !header.tensors.emplace(name, std::move(tensor)).second) {
      reader.Fail(absl::StrCat(what, " occurs twice"));
    }
  }
  uint64_t alignment = 32;
  if (const auto found = header.metadata.find("general.alignment");
      found != header.metadata.end()) {
    const int64_t stated = found->second.integer;
    if (stated < 1 || stated > 1 << 20 || (stated & (stated - 1)) != 0) {
      reader.Fail(absl::StrCat("general.alignment is ", stated, ", no power of two up to 2^20"));
    }
    alignment = static_cast<uint64_t>(stated);
  }
  if (!reader.ok()) return reader.status();
  const uint64_t begin = (reader.at() + alignment - 1) / alignment * alignment;
  for (auto& [name, tensor] : header.tensors) {
    if (__builtin_add_overflow(tensor.offset, begin, &tensor.offset)) tensor.offset = UINT64_MAX;
  }
  absl::Status status = CheckPlaces(header, file_bytes, file);
  if (!status.ok()) return status;
  return header;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  absl::StatusOr<File> opened = File::Open(path);
  if (!opened.ok()) return opened.status();
  std::unique_ptr<GgufFile> gguf(new GgufFile(*std::move(opened)));
  const File& file = gguf->file_;
  // The file does not say how long its header is, so we may have read too little.
  for (uint64_t size = 4 << 20;; size *= 4) {
    size = std::min<uint64_t>(size, file.bytes());
    std::vector<uint8_t> data(size);
    absl::Status status = file.Read(0, size, data.data());
    if (!status.ok()) return status;
    auto header = ParseGgufHeader(data.data(), size, file.bytes(), path);
    if (header.ok()) {
      gguf->header_ = *std::move(header);
      return gguf;
    }
    if (header.status().code() != absl::StatusCode::kOutOfRange) return header.status();
  }
}

absl::StatusOr<std::vector<uint8_t>> GgufFile::Read(const GgufTensor& tensor) const {
  std::vector<uint8_t> bytes(tensor.bytes);
  absl::Status status = file_.Read(tensor.offset, bytes.size(), bytes.data());
  if (!status.ok()) return status;
  return bytes;
}

}  // namespace packrat
