// A safetensors checkpoint, opened for reading: one file, or shards that an index names. How much
// memory is allocated never depends on what a file claims alone. Format: 8 bytes of little-endian
// header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
#ifndef PACKRAT_MODELS_FILES_CHECKPOINT_H_
#define PACKRAT_MODELS_FILES_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/files/file.h"

namespace packrat {

// Element types that a file may hold. Weights are F32, BF16 or F16, or quantised in groups of 32
// (kernels/quantized.h); I32 is for token ids.
//
// A file with quantised weights has "packrat_quantization": "1" in its metadata. "1" is the version
// of this format: a weight (out, in) is a tensor of U8, (out, in / 32, 34) for int8 and (out, in /
// 32, 20) for int4, and several of them, (count, out, in), one of four dimensions. Each group has
// the bytes of GGUF's Q8_0 or Q4_1.
enum class TensorType { kF32, kBF16, kF16, kI32, kInt8, kInt4 };
const char* TensorTypeName(TensorType type);  // "F32", "BF16", "F16", "I32", "int8", "int4"
inline constexpr char kQuantizationKey[] = "packrat_quantization";
inline constexpr char kQuantizationVersion[] = "1";
bool IsQuantized(TensorType type);
// The shape that a file has for it.
std::vector<int64_t> StoredShape(TensorType type, std::vector<int64_t> shape);
// Bytes of a tensor in a file. For quantised types the last dimension is a multiple of 32.
size_t TensorBytes(TensorType type, const std::vector<int64_t>& shape);

struct TensorView {
  TensorType type;
  std::vector<int64_t> shape;  // Row-major; empty for a scalar. Quantised: of the weights.
  size_t offset;               // Of its first byte, in the file.
  size_t bytes;
  std::string file;     // Its path.
  int file_number = 0;  // Among the checkpoint's files.
  int64_t NumElements() const;
};

// A tensor that no model needs.
struct OtherTensor {
  std::string dtype;  // As the file calls it.
  std::string file;
};

class Checkpoint {
 public:
  // A folder with model.safetensors, or with model.safetensors.index.json and the shards it names
  // (plain file names inside the folder only).
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir);
  // One safetensors file.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFile(const std::string& path);

  // Keeps only the language model of a checkpoint that may hold more. Names that begin with
  // `nested` begin with `plain` instead, unless another tensor has that name. Tensors whose names
  // begin with one of `others` are left out.
  void Unnest(const std::string& nested, const std::string& plain,
              const std::vector<std::string>& others);
  // What a tensor is called in the files, for messages.
  std::string NameInFile(const std::string& name) const;

  // Without tensors that no model needs: counters and masks (of BOOL, or of an integer type other
  // than I32), and rotary_emb.inv_freq, which older files have although the config determines it.
  const std::unordered_map<std::string, TensorView>& tensors() const { return tensors_; }
  // Whether the files have such a tensor, needed or not.
  bool Has(const std::string& name) const { return tensors_.count(name) + others_.count(name) > 0; }
  // INVALID_ARGUMENT names file and tensor if it is absent, and its type if that kept it out.
  absl::StatusOr<TensorView> Find(const std::string& name) const;
  // Reads `bytes` of the tensor from its byte `first` on. INVALID_ARGUMENT if the file was cut
  // since it was opened, INTERNAL if it cannot be read. Any thread may call it.
  absl::Status Read(const TensorView& tensor, size_t first, size_t bytes, void* to) const;

 private:
  Checkpoint() = default;
  absl::Status AddFile(const std::string& path);

  // Whether the file of that path has such a tensor, needed or not.
  bool Knows(const std::string& name, const std::string& file) const;

  std::string where_;
  std::string nested_, plain_;  // What Unnest() has replaced, by what. Empty: nothing.
  std::unordered_set<std::string> not_nested_;  // Of names that begin with plain_, those as stored.
  std::vector<File> files_;
  std::unordered_map<std::string, TensorView> tensors_;
  std::unordered_map<std::string, OtherTensor> others_;
};

struct SafetensorsHeader {
  std::unordered_map<std::string, TensorView> tensors;
  std::unordered_map<std::string, OtherTensor> others;
};

// Parses a safetensors header (the JSON alone). The file's data begins at `data_offset` and has
// `data_bytes`. Refuses offsets that overlap, leave gaps or are out of range, sizes that differ
// from dtype * shape, unknown dtypes, shapes that are negative or overflow, and duplicate names.
// The fuzzer calls this.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(const char* header, size_t header_bytes,
                                                         size_t data_offset, size_t data_bytes,
                                                         const std::string& file);

// What WriteSafetensors needs of one tensor.
struct TensorToWrite {
  std::string name;
  TensorType type;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  // In place of `data`: adds its bytes to an empty vector when it is its turn, so that one tensor
  // is in memory at a time. An error ends the writing.
  std::function<absl::Status(std::vector<uint8_t>*)> make = nullptr;
};
// INVALID_ARGUMENT for tensors that no file may have, INTERNAL if it cannot be written, or what
// `make` says. The file is whole or not there.
absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors);

}  // namespace packrat

#endif  // PACKRAT_MODELS_FILES_CHECKPOINT_H_
