#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/elementwise.h"

namespace packrat {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();
// 1/temperature at most: with it the best token's weight is 1 and that of any other is 0 or 1.
constexpr float kMaxInverseTemperature = 1e30f;

// In place on logits; all allowed ids are finite before and after.
void ApplyPenalties(const SamplingParams& params, absl::Span<const TokenCounts::Entry> counts,
                    float* logits) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const TokenCounts::Entry& entry : counts) {
    float& x = logits[entry.token];
    if (x == kExcluded) continue;
    x = x > 0 ? x / params.repetition_penalty : x * params.repetition_penalty;
    if (entry.generated > 0) {
      x -= params.presence_penalty + params.frequency_penalty * static_cast<float>(entry.generated);
    }
    x = std::clamp(x, -kLargest, kLargest);
  }
}

bool UsesPenalties(const SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
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

void TokenCounts::Reserve(int max_distinct) {
  entries_.clear();
  entries_.reserve(max_distinct);
  size_t size = 16;
  while (size < 2 * static_cast<size_t>(max_distinct)) size *= 2;
  index_.assign(size, -1);
}

TokenCounts::Entry* TokenCounts::Find(int32_t token) {
  const size_t mask = index_.size() - 1;
  size_t i = (static_cast<uint32_t>(token) * uint64_t{0x9E3779B97F4A7C15u}) >> 32 & mask;
  while (index_[i] >= 0) {
    Entry& entry = entries_[index_[i]];
    if (entry.token == token) return &entry;
    i = (i + 1) & mask;
  }
  PACKRAT_CHECK(entries_.size() < entries_.capacity(), "more distinct tokens than reserved");
  index_[i] = static_cast<int32_t>(entries_.size());
  entries_.push_back({token, 0});
  return &entries_.back();
}

SamplingState::SamplingState(const SamplingParams& params, absl::Span<const int32_t> prompt,
                             int max_tokens, int num_ids)
    : params_(params), allow_list_(!params.allowed_ids.empty()), penalties_(UsesPenalties(params)) {
  // Ascending, so that the rank of equal logits is that of their ids.
  std::vector<int32_t>& allowed = params_.allowed_ids;
  std::sort(allowed.begin(), allowed.end());
  allowed.erase(std::unique(allowed.begin(), allowed.end()), allowed.end());
  while (!allowed.empty() && allowed.back() >= num_ids) allowed.pop_back();
  if (penalties_) {
    // A text may be far longer than the vocabulary: no more distinct ids than that come from it.
    counts_.Reserve(static_cast<int>(prompt.size()) + std::min(max_tokens, num_ids));
    for (int32_t token : prompt) counts_.AddPrompt(token);
  }
}

bool AnythingToSample(const SamplingParams& params, absl::Span<const int32_t> masked, int num_ids) {
  std::vector<int32_t> excluded(masked.begin(), masked.end());
  excluded.insert(excluded.end(), params.banned_ids.begin(), params.banned_ids.end());
  std::sort(excluded.begin(), excluded.end());
  excluded.erase(std::unique(excluded.begin(), excluded.end()), excluded.end());
  const auto usable = [&](int32_t id) {
    return id < num_ids && !std::binary_search(excluded.begin(), excluded.end(), id);
  };
  if (!params.allowed_ids.empty()) {
    return std::any_of(params.allowed_ids.begin(), params.allowed_ids.end(), usable);
  }
  const auto real = std::lower_bound(excluded.begin(), excluded.end(), num_ids) - excluded.begin();
  return real < num_ids;
}

Sampler::Sampler(int vocab_size, int num_ids)
    : num_ids_(num_ids),
      values_(num_ids),
      weights_(num_ids),
      list_(num_ids),
      scratch_(TopKScratch(num_ids)) {
  PACKRAT_CHECK(num_ids >= 1 && num_ids <= vocab_size);
}

absl::Status Sampler::Sample(const SamplingState& state, absl::Span<const int32_t> masked,
                             uint64_t position, float* logits, int32_t* token,
                             TokenLogprobs* logprobs) {
  if (!AllFinite(logits, num_ids_)) {
    return absl::InternalError("the model produced a non-finite value");
  }
  const SamplingParams& params = state.params_;
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  for (int32_t id : params.banned_ids) logits[id] = kExcluded;
  for (int32_t id : masked) logits[id] = kExcluded;
  if (state.penalties_) ApplyPenalties(params, state.counts_.entries(), logits);

  Row row{logits, num_ids_, nullptr};
  if (state.allow_list_) {
    row = {values_.data(), static_cast<int>(params.allowed_ids.size()), params.allowed_ids.data()};
    for (int i = 0; i < row.n; ++i) values_[i] = logits[row.ids[i]];
  }
  const IndexedValue best = row.n > 0 ? ArgMax(row.x, row.n) : IndexedValue{0, kExcluded};
  if (best.value == kExcluded) return absl::InternalError("no token is left to choose from");

  int chosen = best.index;
  if (params.temperature > 0) {
    chosen = DrawIndex(params, row, best, CounterUniform(params.seed, position));
  }
  if (logprobs != nullptr) FillLogprobs(row, best, chosen, params.num_logprobs, logprobs);
  *token = row.ids != nullptr ? row.ids[chosen] : chosen;
  return absl::OkStatus();
}

int Sampler::DrawIndex(const SamplingParams& params, const Row& row, IndexedValue best,
                       double uniform) {
  const float scale = std::min(1.0f / params.temperature, kMaxInverseTemperature);
  if (params.top_k > 0 && params.top_k < row.n) {
    const IndexedValue cut = TopKCut(row.x, row.n, params.top_k, scratch_.data());
    const int n = GatherFromCut(row.x, row.n, cut, list_.data());
    double mass = 0;
    for (int i = 0; i < n; ++i) {
      list_[i].value = ExpNonPositive((list_[i].value - best.value) * scale);
      mass += list_[i].value;
    }
    return DrawFromList(params, n, mass, uniform);
  }
  const double mass = ExpSum(row.x, row.n, best.value, scale, weights_.data());
  if (params.top_p >= 1.0f && params.min_p <= 0.0f) {
    return PickByMass(weights_.data(), row.n, uniform * mass);
  }
  // Only what may survive goes on the list. All tokens below (1 - top_p) * mass / n together weigh
  // less than the mass that top-p drops, so none of them is in the nucleus (the factor is for
  // rounding).
  const float bar = params.top_p < 1.0f
                        ? static_cast<float>((1.0 - params.top_p) * mass / row.n * 0.999)
                        : params.min_p;
  const IndexedValue cut{std::numeric_limits<int32_t>::max(), bar};
  return DrawFromList(params, GatherFromCut(weights_.data(), row.n, cut, list_.data()), mass,
                      uniform);
}

// list_[0, n): candidates and their weights, of the `mass` that top-p is a share of.
int Sampler::DrawFromList(const SamplingParams& params, int n, double mass, double uniform) {
  IndexedValue cut{std::numeric_limits<int32_t>::max(), params.min_p};
  if (params.top_p < 1.0f) {
    std::copy_n(list_.begin(), n, scratch_.begin());
    const IndexedValue nucleus =
        TopMassCut(scratch_.data(), n, static_cast<double>(params.top_p) * mass);
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

void Sampler::FillLogprobs(const Row& row, IndexedValue best, int chosen, int top,
                           TokenLogprobs* out) {
  const double log_sum = std::log(ExpSum(row.x, row.n, best.value, 1.0f, nullptr));
  const auto logprob = [&](float x) {
    return static_cast<float>(static_cast<double>(x) - best.value - log_sum);
  };
  out->logprob = logprob(row.x[chosen]);
  out->top.clear();
  if (top < 1) return;
  const int n = TopK(row.x, row.n, top, scratch_.data());
  std::sort(scratch_.begin(), scratch_.begin() + n, RanksBefore);
  out->top.reserve(n);
  for (int i = 0; i < n && scratch_[i].value > kExcluded; ++i) {
    const int index = scratch_[i].index;
    out->top.emplace_back(row.ids != nullptr ? row.ids[index] : index, logprob(scratch_[i].value));
  }
}

}  // namespace packrat
