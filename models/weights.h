// Takes tensors out of a checkpoint by name, checks their shapes, and brings them into the form the
// kernels read. The first error is kept and makes everything after it a no-op, so that layers can
// name what they need one line after the other.
#ifndef PACKRAT_MODELS_WEIGHTS_H_
#define PACKRAT_MODELS_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/dtype.h"
#include "models/files/checkpoint.h"

namespace packrat {

class WeightLoader {
 public:
  // kMeasure: names, shapes and types are checked and float_bytes() counts, but nothing is read,
  // and what is handed out is empty.
  enum class Mode { kLoad, kMeasure };
  explicit WeightLoader(const Checkpoint* checkpoint, Mode mode = Mode::kLoad)
      : checkpoint_(checkpoint), mode_(mode) {}

  // Told after each piece how much of the checkpoint was read.
  using Progress = std::function<void(size_t done_bytes, size_t total_bytes)>;
  void ReportTo(Progress progress);

  // Rows [first, first + rows) of a weight (out, in) as they are stored, about a MiB after the
  // other, in order. After an error the rest does not come.
  struct Piece {
    int first, rows;      // Counted from the first row that was asked for.
    const uint8_t* data;  // (rows, in); valid during the call. Quantised: as in the file.
    DType type;
  };
  void Rows(const std::string& name, int out, int in, int first, int rows,
            absl::FunctionRef<void(const Piece&)> take);
  // A tensor of this shape as float32, row-major.
  std::vector<float> Floats(const std::string& name, const std::vector<int64_t>& shape);
  // An error of a tensor that whoever takes it finds.
  void Refuse(const std::string& name, const std::string& why);
  // How a tensor is stored; float32 where there is none.
  DType TypeOf(const std::string& name) const;
  bool HasQuantized() const;  // Any tensor.
  bool Has(const std::string& name) const { return checkpoint_->Has(name); }

  Mode mode() const { return mode_; }
  const absl::Status& status() const { return status_; }
  // The first error, or INVALID_ARGUMENT for tensors that nobody has taken. An output matrix
  // (lm_head.weight) that is the embedding once more, in a model that ties them, does not count.
  absl::Status Finish() const;
  size_t float_bytes() const { return float_bytes_; }  // Of all Floats().
  // Of all names, types, shapes and bits taken so far.
  uint64_t hash() const { return hash_; }

 private:
  // Whether a tensor that was taken holds the same bytes in the same type and shape.
  bool IsCopy(const TensorView& view) const;
  // Null after an error.
  const TensorView* Take(const std::string& name, const std::vector<int64_t>& shape);
  // Reads `bytes` of a tensor from its byte `first` on into buffer_, which counts in hash(). Every
  // value must be finite. False after an error.
  bool Read(const std::string& name, const TensorView& view, size_t first, size_t bytes);

  const Checkpoint* checkpoint_;
  const Mode mode_;
  std::vector<uint8_t> buffer_;
  std::unordered_set<std::string> taken_;
  absl::Status status_;
  Progress progress_;
  size_t done_bytes_ = 0, total_bytes_ = 0;
  size_t float_bytes_ = 0;
  uint64_t hash_ = 0;
};

// Folds `bytes` of data into a 64-bit hash: stable across builds and machines, fast enough for
// gigabytes; tells models apart, is no defence against forgery.
uint64_t HashBytes(uint64_t hash, const void* data, size_t bytes);

}  // namespace packrat

#endif  // PACKRAT_MODELS_WEIGHTS_H_
