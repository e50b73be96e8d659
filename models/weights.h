// Takes tensors out of a checkpoint by name, checks their shapes, and brings them into the form the
// kernels read. The first error is kept and makes everything after it a no-op, so that layers can
// name what they need one line after the other.
#ifndef PACKRAT_MODELS_WEIGHTS_H_
#define PACKRAT_MODELS_WEIGHTS_H_

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matmul.h"
#include "models/checkpoint.h"

namespace packrat {

class WeightLoader {
 public:
  explicit WeightLoader(const Checkpoint* checkpoint) : checkpoint_(checkpoint) {}

  // A weight (out, in) in its stored type. With `first` and `rows`: only those of its rows.
  PackedMatrix Matrix(const std::string& name, int out, int in);
  PackedMatrix MatrixRows(const std::string& name, int out, int in, int first, int rows);
  // The same rows as they are stored, of any alignment, without a copy; `data` is null after an
  // error.
  struct StoredRows {
    const uint8_t* data = nullptr;
    DType type = DType::kF32;
    size_t bytes = 0;
  };
  StoredRows Rows(const std::string& name, int out, int in, int first, int rows);
  // The tensor is not needed any more.
  void Release(const std::string& name) const;
  // A tensor of this shape as float32, row-major.
  std::vector<float> Floats(const std::string& name, const std::vector<int64_t>& shape);
  bool Has(const std::string& name) const { return checkpoint_->tensors().count(name) > 0; }

  const absl::Status& status() const { return status_; }
  // The first error, or INVALID_ARGUMENT for tensors that nobody has taken.
  absl::Status Finish() const;
  size_t bytes() const { return bytes_; }
  // Of all names, types, shapes and bits taken so far.
  uint64_t hash() const { return hash_; }

 private:
  // Null after an error.
  const TensorView* Take(const std::string& name, const std::vector<int64_t>& shape);

  const Checkpoint* checkpoint_;
  std::unordered_set<std::string> taken_;
  absl::Status status_;
  size_t bytes_ = 0;
  uint64_t hash_ = 0;
};

// Folds `bytes` of data into a 64-bit hash: stable across builds and machines, fast enough for
// gigabytes; tells models apart, is no defence against forgery.
uint64_t HashBytes(uint64_t hash, const void* data, size_t bytes);

}  // namespace packrat

#endif  // PACKRAT_MODELS_WEIGHTS_H_
