#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "kernels/sampling.h"

namespace packrat {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

// In place on logits; all that are not excluded are finite before and after.
void ApplyPenalties(const SamplingRow& row, float* logits) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const TokenCount& entry : row.counts) {
    float& x = logits[entry.token];
    if (x == kExcluded) continue;
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    if (entry.generated > 0) {
      x -= row.presence_penalty + row.frequency_penalty * static_cast<float>(entry.generated);
    }
    x = std::clamp(x, -kLargest, kLargest);
  }
}

struct Bits {
  uint32_t of[32];
};
constexpr Bits EachBit() {
  Bits bits{};
  for (int i = 0; i < 32; ++i) bits.of[i] = uint32_t{1} << i;
  return bits;
}

// Excludes what is not in the mask.
void ApplyMask(absl::Span<const uint32_t> mask, int n, float* logits) {
  static constexpr Bits kBit = EachBit();
  int begin = 0;
  for (; begin + 32 <= n; begin += 32) {
    const uint32_t word = mask[begin / 32];
    if (word == ~uint32_t{0}) continue;
    float* const x = logits + begin;
    // A loop of a constant length without branches becomes vector instructions.
    for (int i = 0; i < 32; ++i) x[i] = (word & kBit.of[i]) != 0 ? x[i] : kExcluded;
  }
  for (; begin < n; ++begin) {
    if ((mask[begin / 32] >> (begin % 32) & 1) == 0) logits[begin] = kExcluded;
  }
}

// The largest of x[0, n) but x[best]; -inf where there is no other.
float NextBest(const float* x, int n, int best) {
  float next = kExcluded;
  if (best > 0) next = ArgMax(x, best).value;
  if (best + 1 < n) next = std::max(next, ArgMax(x + best + 1, n - best - 1).value);
  return next;
}

}  // namespace

double CounterUniform(uint64_t seed, uint64_t position) {
  uint32_t counter[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0,
                         0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter[2];
    counter[0] = static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(b);
    counter[2] = static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(a);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  const uint64_t bits = (uint64_t{counter[1]} << 32) | counter[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

float TemperatureScale(float temperature) {
  // At most this: with it the best token's weight is 1 and that of any other is 0 or 1.
  return std::min(1.0f / temperature, 1e30f);
}

absl::Status ToStatus(SampledToken::Status status) {
  switch (status) {
    case SampledToken::Status::kOk:
      return absl::OkStatus();
    case SampledToken::Status::kNotFinite:
      return absl::InternalError("the model produced a non-finite value");
    case SampledToken::Status::kNothingLeft:
      return absl::InternalError("no token is left to choose from");
  }
  PACKRAT_CHECK(false) << static_cast<int>(status);
  return absl::OkStatus();
}

Sampler::Sampler(int max_ids)
    : max_ids_(max_ids),
      values_(new float[max_ids]),
      weights_(new float[max_ids]),
      list_(new IndexedValue[max_ids]),
      scratch_(new IndexedValue[TopKScratch(max_ids)]) {
  PACKRAT_CHECK(max_ids >= 1);
}

size_t Sampler::Bytes(int max_ids) {
  const auto ids = static_cast<size_t>(max_ids);
  return 2 * ids * sizeof(float) + (ids + TopKScratch(max_ids)) * sizeof(IndexedValue);
}

void Sampler::Sample(const SamplingRow& row, float* logits, SampledToken* sampled) {
  PACKRAT_CHECK(row.num_ids >= 1 && row.num_ids <= max_ids_);
  PACKRAT_CHECK(row.given < row.num_ids && !(row.given >= 0 && row.allow_list)) << row.given;
  PACKRAT_CHECK(row.mask.empty() || (row.given < 0 && row.mask.size() * 32 >= size_t(row.num_ids)));
  sampled->status = SampledToken::Status::kNotFinite;
  if (!AllFinite(logits, row.num_ids)) return;
  for (const auto& [id, bias] : row.logit_bias) logits[id] += bias;
  for (int32_t id : row.banned) logits[id] = kExcluded;
  for (int32_t id : row.masked) logits[id] = kExcluded;
  if (!row.mask.empty()) ApplyMask(row.mask, row.num_ids, logits);
  ApplyPenalties(row, logits);

  Candidates all{logits, row.num_ids, nullptr};
  if (row.allow_list) {
    all = {values_.get(), static_cast<int>(row.allowed.size()), row.allowed.data()};
    for (int i = 0; i < all.n; ++i) values_[i] = logits[all.ids[i]];
  }
  const IndexedValue best = all.n > 0 ? ArgMax(all.x, all.n) : IndexedValue{0, kExcluded};
  sampled->status = SampledToken::Status::kNothingLeft;
  if (best.value == kExcluded) return;

  int chosen = best.index;
  if (row.given >= 0) {
    chosen = row.given;
  } else if (row.temperature > 0) {
    chosen = DrawIndex(row, all, best, CounterUniform(row.seed, row.position));
  }
  if (row.num_logprobs >= 0 || row.given >= 0) {
    const double sum = ExpSum(all.x, all.n, best.value, 1.0f, nullptr);
    const double log_sum = std::log(sum);
    if (row.num_logprobs >= 0) {
      FillLogprobs(all, best, log_sum, chosen, row.num_logprobs, sampled);
    }
    if (row.given >= 0) {
      sampled->best = best.index;
      const double share = EntropySum(all.x, all.n, best.value) / sum;
      sampled->entropy = static_cast<float>(log_sum + share);
      sampled->margin = best.value - NextBest(all.x, all.n, best.index);
    }
  }
  sampled->token = all.ids != nullptr ? all.ids[chosen] : chosen;
  sampled->status = SampledToken::Status::kOk;
}

int Sampler::DrawIndex(const SamplingRow& row, const Candidates& all, IndexedValue best,
                       double uniform) {
  const float scale = TemperatureScale(row.temperature);
  if (row.top_k > 0 && row.top_k < all.n) {
    const IndexedValue cut = TopKCut(all.x, all.n, row.top_k, scratch_.get());
    const int n = GatherFromCut(all.x, all.n, cut, list_.get());
    double mass = 0;
    for (int i = 0; i < n; ++i) {
      list_[i].value = ExpNonPositive((list_[i].value - best.value) * scale);
      mass += list_[i].value;
    }
    return DrawFromList(row, n, mass, uniform);
  }
  double mass = ExpSum(all.x, all.n, best.value, scale, weights_.get());
  if (row.top_p < 1.0f || row.min_p > 0.0f) {
    IndexedValue cut{std::numeric_limits<int32_t>::max(), row.min_p};
    if (row.top_p < 1.0f) {
      const IndexedValue nucleus =
          TopMassCut(weights_.get(), all.n, mass, row.top_p, scratch_.get());
      if (RanksBefore(nucleus, cut)) cut = nucleus;
    }
    mass = KeepFromCut(cut, all.n, weights_.get());
  }
  const int chosen = PickByMass(weights_.get(), all.n, uniform * mass);
  PACKRAT_CHECK(chosen >= 0);
  return chosen;
}

// list_[0, n): candidates and their weights, of the `mass` that top-p is a share of.
int Sampler::DrawFromList(const SamplingRow& row, int n, double mass, double uniform) {
  IndexedValue cut{std::numeric_limits<int32_t>::max(), row.min_p};
  if (row.top_p < 1.0f) {
    std::copy_n(list_.get(), n, scratch_.get());
    const IndexedValue nucleus =
        TopMassCut(scratch_.get(), n, static_cast<double>(row.top_p) * mass);
    if (RanksBefore(nucleus, cut)) cut = nucleus;
  }
  int kept = 0;
  double total = 0;
  for (int i = 0; i < n; ++i) {
    if (RanksBefore(cut, list_[i])) continue;
    total += list_[i].value;
    list_[kept++] = list_[i];
  }
  const double target = uniform * total;
  double running = 0;
  int chosen = -1;
  for (int i = 0; i < kept; ++i) {
    if (list_[i].value > 0) chosen = list_[i].index;
    running += list_[i].value;
    if (running > target && chosen >= 0) break;
  }
  PACKRAT_CHECK(chosen >= 0);
  return chosen;
}

void Sampler::FillLogprobs(const Candidates& all, IndexedValue best, double log_sum, int chosen,
                           int top, SampledToken* sampled) {
  const auto logprob = [&](float x) {
    return static_cast<float>(static_cast<double>(x) - best.value - log_sum);
  };
  sampled->logprob = logprob(all.x[chosen]);
  sampled->num_top = 0;
  if (top < 1) return;
  const int n = TopK(all.x, all.n, std::min(top, kMaxLogprobs), scratch_.get());
  std::sort(scratch_.get(), scratch_.get() + n, RanksBefore);
  for (int i = 0; i < n && scratch_[i].value > kExcluded; ++i) {
    const int index = scratch_[i].index;
    sampled->top[sampled->num_top++] = {all.ids != nullptr ? all.ids[index] : index,
                                        logprob(scratch_[i].value)};
  }
}

}  // namespace packrat
