// A model without mathematics: its "state" holds hashes of the tokens, in the slots, tails and
// pages of a real layout (RAT, window, full attention, Mesa), and its logits are a function of
// everything that a real model would read. A state that is mixed up, late, lost or stale changes
// the logits or stops the test: each part says which position it was written for.
#ifndef PACKRAT_TESTS_RUNTIME_FAKE_MODEL_H_
#define PACKRAT_TESTS_RUNTIME_FAKE_MODEL_H_

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "models/host_model.h"

namespace packrat {

class FakeModel : public HostModel {
 public:
  static constexpr int kVocab = 101;
  static constexpr int kEos = 2;
  // Tokens that make a sequence go bad: the pass says so, or only its logits are NaN.
  static constexpr int kNotFiniteToken = 90;
  static constexpr int kNanLogitsToken = 91;
  // A token whose solve stops at its limit of steps. No text of the model has one of the three.
  static constexpr int kUnconvergedToken = 92;

  struct Options {
    int max_context = 512;
    int max_batch_tokens = 64;
    int max_logit_rows = 64;
    int vocab = kVocab;
    bool mesa = true, rat = true, window = true, full = true;
    int window_heads = 2;  // Its state, which a fork copies, grows with them.
    int threads = 1;       // That sample.
    bool ahead = false;    // Two steps may be in flight: Start() computes, as a fast device would.
  };
  FakeModel() : FakeModel(Options()) {}
  explicit FakeModel(const Options& options);

  const ModelConfig& config() const override { return config_; }
  const StateLayout& state_layout() const override { return layout_; }
  const ModelOptions& options() const override { return options_; }
  absl::StatusOr<float*> Forward(const Batch& batch, const StateMemory& state,
                                 SpanStats* stats) override;
  size_t weight_bytes() const override { return 0; }
  size_t scratch_bytes() const override { return 0; }
  const std::vector<std::string>& fingerprints() const override { return fingerprints_; }

  // Steps whose rows' lists take more than was reserved are refused by a check.
  absl::Status ReserveSampling(size_t list_bytes) override;
  size_t most_list_bytes = std::numeric_limits<size_t>::max();  // The device has no more for them.
  absl::Status reserve_status;  // Where it is not OK: the device is lost.

  // Called at the start of each pass.
  std::function<void(const Batch&)> on_forward;
  // What Start() and Wait() say, where it is not OK: the device is lost. Wait() then computes
  // first.
  absl::Status start_status, wait_status;
  absl::Status Start(const Batch& batch, const StateMemory& state,
                     absl::Span<const SamplingRow> rows) override;
  absl::Status Wait(SpanStats* stats, SampledToken* sampled) override;
  int max_steps_in_flight() const override { return ahead_ ? 2 : 1; }
  int steps_started() const { return steps_started_; }
  int steps_waited_for() const { return steps_waited_for_; }

  // The logits after `text`, from the tokens alone: what any way of serving must give.
  std::vector<float> LogitsAfter(const std::vector<int32_t>& text, int cg_max_steps = 64) const;
  // The `count` tokens that greedy decoding gives after `prompt`, end ids taken as any other.
  std::vector<int32_t> GreedyAfter(const std::vector<int32_t>& prompt, int count) const;

 private:
  struct View;  // What one token of a sequence sees.
  struct Results {
    int spans = 0, rows = 0;
    std::vector<SpanStats> stats;       // (spans), and what is left of longer steps
    std::vector<SampledToken> sampled;  // (rows), likewise
  };
  void FillLogits(uint64_t hash, float* logits) const;
  uint64_t ComputeToken(const Span& span, int position, int32_t token, const StateMemory& state);
  uint64_t ReadPages(const Span& span, int position, int32_t token, uint64_t chunk_hash,
                     const StateMemory& state);

  static ModelConfig MakeConfig(const Options& options);
  const ModelConfig config_;
  const StateLayout layout_;
  ModelOptions options_;
  const std::vector<std::string> fingerprints_ = {"fake"};
  std::vector<float> logits_;
  ThreadPool threads_;
  const bool ahead_;
  size_t reserved_list_bytes_ = 0;
  Results results_[2];  // With `ahead`: of even and of odd steps.
  std::vector<int32_t> tokens_;
  int steps_started_ = 0, steps_waited_for_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_FAKE_MODEL_H_
