// Read-only view of a safetensors checkpoint: one file, or shards named by an index. Files are
// memory-mapped; nothing is allocated by what a file claims. Format: 8 bytes little-endian header
// length, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
#ifndef PACKRAT_MODELS_CHECKPOINT_H_
#define PACKRAT_MODELS_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace packrat {

// Element types that a file may hold. Weights are F32, BF16 or F16; I32 is for token ids.
enum class TensorType { kF32, kBF16, kF16, kI32 };
const char* TensorTypeName(TensorType type);  // "F32", "BF16", "F16", "I32"

struct TensorView {
  TensorType type;
  std::vector<int64_t> shape;  // Row-major; empty for a scalar.
  const uint8_t* data;         // Inside the mapping; may be unaligned.
  size_t bytes;
  std::string file;  // For messages.
  int64_t NumElements() const;
};

class Checkpoint {
 public:
  // A folder with model.safetensors, or with model.safetensors.index.json and the shards it names
  // (plain file names inside the folder only).
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir);
  // One safetensors file.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFile(const std::string& path);
  ~Checkpoint();

  const std::unordered_map<std::string, TensorView>& tensors() const { return tensors_; }
  // INVALID_ARGUMENT naming file and tensor if absent.
  absl::StatusOr<TensorView> Find(const std::string& name) const;
  // Tells the kernel that the pages of this tensor are not needed any more (it has been packed).
  void Release(const TensorView& tensor) const;

 private:
  struct Mapping {
    void* base;
    size_t bytes;
  };
  Checkpoint() = default;
  absl::Status AddFile(const std::string& path);

  std::string where_;
  std::vector<Mapping> mappings_;
  std::unordered_map<std::string, TensorView> tensors_;
};

// Parses a safetensors header (the JSON alone). `data_bytes`: size of the file after the header.
// Refuses overlapping, out-of-range or gapped offsets, sizes that disagree with dtype * shape,
// unknown dtypes, negative or overflowing shapes, duplicate names. `data` points to the start of
// the data section. This is what the fuzzer drives.
absl::StatusOr<std::unordered_map<std::string, TensorView>> ParseSafetensorsHeader(
    const char* header, size_t header_bytes, const uint8_t* data, size_t data_bytes,
    const std::string& file);

// What WriteSafetensors needs of one tensor.
struct TensorToWrite {
  std::string name;
  TensorType type;
  std::vector<int64_t> shape;
  const void* data;
};
absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorToWrite>& tensors);

}  // namespace packrat

#endif  // PACKRAT_MODELS_CHECKPOINT_H_
