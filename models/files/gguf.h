// Reads GGUF files, the format of llama.cpp: metadata, and tensors, many of them quantised in
// blocks. Little-endian, versions 2 and 3.
#ifndef PACKRAT_MODELS_FILES_GGUF_H_
#define PACKRAT_MODELS_FILES_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/files/file.h"

namespace packrat {

// The types that can be read, with the numbers that files use for them.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kBF16 = 30,
};
const char* GgufTypeName(GgufType type);
int GgufBlock(GgufType type);          // Elements of a block; 1 if the type has no blocks.
size_t GgufBlockBytes(GgufType type);  // Of that block.
// The elements of a block as float32, as the format defines them.
void WidenGgufBlock(GgufType type, const uint8_t* block, float* values);

// Q4_K has eight groups of 32 weights in a block: w = scale * q - minimum.
struct GgufScale {
  float scale, minimum;
};
GgufScale GgufScaleOf(const uint8_t* block, int group);
int GgufQuarter(const uint8_t* block, int k);  // The q of weight k.

struct GgufTensor {
  GgufType type;
  std::vector<int64_t> shape;  // Row-major, as in safetensors: the rows' length comes last.
  uint64_t offset;             // Of its first byte, in the file.
  uint64_t bytes;
};

struct GgufValue {
  enum class Kind { kInteger, kFloat, kBool, kString, kNumbers, kStrings };
  Kind kind;
  int64_t integer = 0;  // And kBool.
  double number = 0;
  std::string text;
  std::vector<double> numbers;  // Integers and booleans too; they are exact up to 2^53.
  std::vector<std::string> texts;
};

struct GgufHeader {
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, GgufTensor> tensors;
};

// Parses the header from the first `size` of a file's `file_bytes` bytes. OUT_OF_RANGE if the
// header is longer than `size`, and the file too. INVALID_ARGUMENT names the file and what is
// wrong, such as a tensor of an unknown type, or tensors that overlap or lie outside of the file.
// Allocates at most a few times what it reads. The fuzzer calls this.
absl::StatusOr<GgufHeader> ParseGgufHeader(const uint8_t* data, size_t size, uint64_t file_bytes,
                                           const std::string& file);

// An open file.
class GgufFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const GgufHeader& header() const { return header_; }
  // All bytes of a tensor.
  absl::StatusOr<std::vector<uint8_t>> Read(const GgufTensor& tensor) const;

 private:
  explicit GgufFile(File file) : file_(std::move(file)) {}

  const File file_;
  GgufHeader header_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_FILES_GGUF_H_
