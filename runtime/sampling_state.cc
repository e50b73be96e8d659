#include "runtime/sampling_state.h"

#include <algorithm>

namespace packrat {
namespace {

bool UsesPenalties(const SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
}

}  // namespace

void TokenCounts::Reserve(size_t distinct) {
  size_t size = 16;
  while (size < 2 * distinct) size *= 2;
  entries_.reserve(size / 2);
  index_.assign(size, -1);
  for (size_t i = 0; i < entries_.size(); ++i) {
    index_[Place(entries_[i].token)] = static_cast<int32_t>(i);
  }
}

size_t TokenCounts::Place(int32_t token) const {
  const size_t mask = index_.size() - 1;
  size_t i = (static_cast<uint32_t>(token) * uint64_t{0x9E3779B97F4A7C15u}) >> 32 & mask;
  while (index_[i] >= 0 && entries_[index_[i]].token != token) i = (i + 1) & mask;
  return i;
}

TokenCount* TokenCounts::Find(int32_t token) {
  const size_t place = Place(token);
  if (index_[place] >= 0) return &entries_[index_[place]];
  if (2 * (entries_.size() + 1) > index_.size()) {
    Reserve(entries_.size() + 1);
    return Find(token);
  }
  index_[place] = static_cast<int32_t>(entries_.size());
  entries_.push_back({token, 0});
  return &entries_.back();
}

SamplingState::SamplingState(const SamplingParams& params, int num_ids)
    : num_ids_(num_ids),
      params_(params),
      allow_list_(!params.allowed_ids.empty()),
      penalties_(UsesPenalties(params)) {
  // Ascending, so that the rank of equal logits is that of their ids.
  std::vector<int32_t>& allowed = params_.allowed_ids;
  std::sort(allowed.begin(), allowed.end());
  allowed.erase(std::unique(allowed.begin(), allowed.end()), allowed.end());
  while (!allowed.empty() && allowed.back() >= num_ids) allowed.pop_back();
}

size_t SamplingState::MostListBytes(size_t distinct, size_t masked, size_t mask_words) const {
  return SamplingListBytes(Row({}, 0)) + masked * sizeof(int32_t) + mask_words * sizeof(uint32_t) +
         (penalties_ ? distinct * sizeof(TokenCount) : 0);
}

void SamplingState::Begin(absl::Span<const int32_t> prompt, int max_tokens) {
  if (!penalties_) return;
  // The prompt may be far longer than the vocabulary: most of its tokens come twice.
  counts_.Reserve(std::min<size_t>(prompt.size(), num_ids_) +
                  std::min(max_tokens, kReservedTokens));
  for (int32_t token : prompt) counts_.AddPrompt(token);
}

SamplingRow SamplingState::Row(absl::Span<const int32_t> masked, uint64_t position,
                               absl::Span<const uint32_t> mask) const {
  SamplingRow row;
  row.num_ids = num_ids_;
  row.temperature = params_.temperature;
  row.top_k = params_.top_k;
  row.top_p = params_.top_p;
  row.min_p = params_.min_p;
  row.repetition_penalty = params_.repetition_penalty;
  row.presence_penalty = params_.presence_penalty;
  row.frequency_penalty = params_.frequency_penalty;
  row.seed = params_.seed;
  row.position = position;
  row.num_logprobs = params_.num_logprobs.value_or(-1);
  row.logit_bias = params_.logit_bias;
  row.banned = params_.banned_ids;
  row.masked = masked;
  row.mask = mask;
  row.allow_list = allow_list_;
  row.allowed = params_.allowed_ids;
  if (penalties_) row.counts = counts_.entries();
  return row;
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

}  // namespace packrat
