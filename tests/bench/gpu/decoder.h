// Sequences on a loaded model, fed and decoded together.
#ifndef PACKRAT_TESTS_BENCH_GPU_DECODER_H_
#define PACKRAT_TESTS_BENCH_GPU_DECODER_H_

#include <memory>
#include <vector>

#include "models/model.h"
#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {

struct StepTime {
  double start = 0, wait = 0;  // Seconds in Start() and in Wait().
  double total() const { return start + wait; }
};

class Decoder {
 public:
  // Room for `sequences` sequences of `max_tokens` tokens. All state is set to a small number, as
  // if something had been fed.
  static absl::StatusOr<std::unique_ptr<Decoder>> Make(LanguageModel* model, int sequences,
                                                       int max_tokens);
  static double BytesFor(const LanguageModel& model, int sequences, int max_tokens);

  void MoveTo(int position) { std::fill(positions_.begin(), positions_.end(), position); }
  int position(int sequence) const { return positions_[sequence]; }
  // Feeds each of sequences [first, first + count) `tokens` tokens of its own random text, or, with
  // tokens = 1 and `next`, next[i]. Samples greedily. pause: between Start() and Wait(), so that
  // the latter finds the work done.
  absl::StatusOr<StepTime> Feed(int first, int count, int tokens, const int32_t* next = nullptr,
                                double pause = 0);
  const SampledToken& sampled(int i) const { return sampled_[i]; }

 private:
  explicit Decoder(LanguageModel* model) : model_(model) {}
  LanguageModel* model_;
  std::unique_ptr<StateBuffer> buffer_;
  StateMemory memory_;
  std::vector<PageMemory> pages_;
  std::vector<std::vector<int32_t>> page_ids_;  // (sequence, class)
  std::vector<PageTable> tables_;               // (sequence, class)
  std::vector<int> positions_;
  std::vector<int32_t> ids_;
  std::vector<Span> spans_;
  std::vector<SamplingRow> rows_;
  std::vector<SpanStats> stats_;
  std::vector<SampledToken> sampled_;
};

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_DECODER_H_
