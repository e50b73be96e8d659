// Takes tensors out of a checkpoint by name and checks their shapes and values. The first error is
// kept and makes everything after it a no-op, so that layers can name what they need line by line.
// Measuring goes on after an error, for a list of all of them.
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
#include "kernels/quantized.h"
#include "models/files/checkpoint.h"

namespace packrat {

class WeightLoader {
 public:
  // kMeasure: names, shapes and types are checked and float_bytes() counts, but nothing is read,
  // and what is handed out is empty.
  enum class Mode { kLoad, kMeasure };
  explicit WeightLoader(const Checkpoint* checkpoint, Mode mode = Mode::kLoad)
      : checkpoint_(checkpoint), mode_(mode) {}

  // Called after each piece with how much of the checkpoint was read.
  using Progress = std::function<void(size_t done_bytes, size_t total_bytes)>;
  void ReportTo(Progress progress);

  // Rows [first, first + rows) of a weight of this shape, (out, in) or several such, (count, out,
  // in), whose rows are counted through. As they are stored, in order, about a MiB at a time. After
  // an error, `take` is not called again.
  struct Piece {
    int first, rows;      // Counted from the first row that was asked for.
    const uint8_t* data;  // (rows, in); valid during the call. Quantised: as in the file.
    DType type;
  };
  void Rows(const std::string& name, const std::vector<int64_t>& shape, int first, int rows,
            absl::FunctionRef<void(const Piece&)> take);
  // The same rows in groups of 32 of a quantised `format`: as they are stored, or quantised here.
  // `in` is a multiple of 32.
  void Groups(const std::string& name, const std::vector<int64_t>& shape, int first, int rows,
              DType format, absl::FunctionRef<void(int row, int group, const QuantGroup&)> take);
  // A tensor of this shape as float32, row-major.
  std::vector<float> Floats(const std::string& name, const std::vector<int64_t>& shape);
  // Calls `take`, which takes what was taken before once more, for another format: hash() has it
  // already, and does not depend on formats.
  void TakeAgain(absl::FunctionRef<void()> take);
  // For an error that the caller finds in a tensor.
  void Refuse(const std::string& name, const std::string& why);
  // How a tensor is stored; float32 if there is no such tensor.
  DType TypeOf(const std::string& name) const;
  // The first dimension of a tensor; 0 if there is no such tensor, or if it has none.
  int64_t LengthOf(const std::string& name) const;
  bool HasQuantized() const;  // Any tensor.
  bool Has(const std::string& name) const { return checkpoint_->Has(name); }

  Mode mode() const { return mode_; }
  const absl::Status& status() const { return status_; }
  // The first error, or INVALID_ARGUMENT for tensors that nobody has taken. Not counted is an
  // output matrix (lm_head.weight) of a model that ties it, if it equals the embedding.
  absl::Status Finish() const;
  // Of measuring: all errors, Finish() included.
  std::vector<std::string> Problems() const;
  size_t float_bytes() const { return float_bytes_; }  // Of all Floats().
  // Of all names, types, shapes and bits taken so far, but for TakeAgain().
  uint64_t hash() const { return hash_; }

 private:
  // Whether some tensor that was taken has the same type, shape and bytes.
  bool IsCopy(const TensorView& view) const;
  void Fail(absl::Status error);
  absl::Status Surplus() const;  // The error of Finish() alone.
  // Null after an error.
  const TensorView* Take(const std::string& name, const std::vector<int64_t>& shape);
  // Reads `bytes` of a tensor from its byte `first` on into buffer_, adds them to hash(), and
  // checks that every value is finite. False after an error.
  bool Read(const std::string& name, const TensorView& view, size_t first, size_t bytes);

  const Checkpoint* checkpoint_;
  const Mode mode_;
  std::vector<uint8_t> buffer_;
  std::vector<float> wide_;  // Of a piece that is being quantised.
  std::unordered_set<std::string> taken_;
  absl::Status status_;
  std::vector<std::string> problems_;
  Progress progress_;
  size_t done_bytes_ = 0, total_bytes_ = 0;
  size_t float_bytes_ = 0;
  uint64_t hash_ = 0;
};

// Folds `bytes` of data into a 64-bit hash. It is stable across builds and machines and fast enough
// for gigabytes. It tells models apart, but is no defence against forgery.
uint64_t HashBytes(uint64_t hash, const void* data, size_t bytes);

}  // namespace packrat

#endif  // PACKRAT_MODELS_WEIGHTS_H_
