// Sampling in double precision, step by step as SamplingParams says, and random cases for it: what
// the samplers of the CPU and the GPU are held to.
#ifndef PACKRAT_TESTS_RUNTIME_SAMPLING_REFERENCE_H_
#define PACKRAT_TESTS_RUNTIME_SAMPLING_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "runtime/sampling_state.h"

namespace packrat {

// Everything that a row is sampled with.
struct Case {
  SamplingParams params;
  std::vector<float> logits;
  std::vector<int32_t> prompt, generated, masked;
  std::vector<uint32_t> mask;  // Empty: none.
  int num_ids;
};

// log-probabilities before temperature and cuts, in double, step by step as the header says.
inline std::vector<double> ReferenceScores(const Case& c) {
  const double excluded = -std::numeric_limits<double>::infinity();
  std::vector<double> x(c.logits.begin(), c.logits.begin() + c.num_ids);
  const auto exclude = [&](int32_t id) {
    if (id < c.num_ids) x[id] = excluded;
  };
  for (const auto& [id, bias] : c.params.logit_bias) {
    if (id < c.num_ids) x[id] += static_cast<double>(bias);
  }
  for (int32_t id : c.params.banned_ids) exclude(id);
  for (int32_t id : c.masked) exclude(id);
  for (int32_t id = 0; id < c.num_ids && !c.mask.empty(); ++id) {
    if ((c.mask[id / 32] >> (id % 32) & 1) == 0) exclude(id);
  }
  std::map<int32_t, int> counts;  // 0: only in the prompt.
  for (int32_t id : c.prompt) counts[id] += 0;
  for (int32_t id : c.generated) counts[id] += 1;
  for (const auto& [id, count] : counts) {
    if (id >= c.num_ids) continue;
    const double penalty = c.params.repetition_penalty;
    x[id] = x[id] > 0 ? x[id] / penalty : x[id] * penalty;
    if (count > 0) {
      x[id] -= static_cast<double>(c.params.presence_penalty) +
               static_cast<double>(c.params.frequency_penalty) * count;
    }
  }
  if (!c.params.allowed_ids.empty()) {
    const std::vector<int32_t>& allowed = c.params.allowed_ids;
    for (int id = 0; id < c.num_ids; ++id) {
      if (std::find(allowed.begin(), allowed.end(), id) == allowed.end()) x[id] = excluded;
    }
  }
  return x;
}

inline std::vector<double> Softmax(std::vector<double> x, double temperature) {
  const double best = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& v : x) sum += v = std::exp((v - best) / temperature);
  for (double& v : x) v /= sum;
  return x;
}

inline void KeepFirst(std::vector<double>* p, const std::vector<int>& order, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += (*p)[order[i]];
  for (size_t i = 0; i < order.size(); ++i) (*p)[order[i]] *= i < count ? 1 / sum : 0;
}

// The distribution that is drawn from. `top_p` in place of the parameter's.
inline std::vector<double> ReferenceProbabilities(const Case& c, double top_p) {
  const std::vector<double> scores = ReferenceScores(c);
  std::vector<double> p = Softmax(scores, c.params.temperature);
  std::vector<int> order(p.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  if (c.params.top_k > 0 && c.params.top_k < static_cast<int>(p.size())) {
    KeepFirst(&p, order, c.params.top_k);
  }
  if (top_p < 1) {
    double sum = 0;
    size_t count = 0;
    while (count < order.size() && sum < top_p) sum += p[order[count++]];
    KeepFirst(&p, order, count);
  }
  size_t count = 0;
  while (count < order.size() && p[order[count]] >= c.params.min_p * p[order[0]]) ++count;
  KeepFirst(&p, order, count);
  return p;
}

// What is said of a given token.
struct ReferenceScore {
  int32_t best = -1;
  double logprob = 0, entropy = 0, margin = 0;
};
inline ReferenceScore ScoreOf(const Case& c, int32_t given) {
  const std::vector<double> scores = ReferenceScores(c), p = Softmax(scores, 1.0);
  ReferenceScore out;
  out.logprob = std::log(p[given]);
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0) out.entropy -= p[i] * std::log(p[i]);
    if (out.best < 0 || scores[i] > scores[out.best]) out.best = static_cast<int32_t>(i);
  }
  double next = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < p.size(); ++i) {
    if (static_cast<int32_t>(i) != out.best) next = std::max(next, scores[i]);
  }
  out.margin = scores[out.best] - next;
  return out;
}

inline Case RandomCase(std::mt19937_64* random, int vocab) {
  const auto pick = [&](int n) { return static_cast<int>((*random)() % n); };
  const auto uniform = [&] { return std::uniform_real_distribution<float>(0, 1)(*random); };
  std::normal_distribution<float> normal(0, 1 + 4 * uniform());
  Case c;
  c.num_ids = vocab - pick(10);
  for (int i = 0; i < vocab; ++i) c.logits.push_back(i < c.num_ids ? normal(*random) : 100.0f);
  SamplingParams& p = c.params;
  p.temperature = 0.2f + 2 * uniform();
  p.seed = (*random)();
  if (pick(2)) p.top_k = pick(vocab);
  if (pick(2)) p.top_p = 0.05f + 0.94f * uniform();
  if (pick(3) == 0) p.min_p = 0.3f * uniform();
  if (pick(3) == 0) p.repetition_penalty = 0.5f + uniform();
  if (pick(3) == 0) p.presence_penalty = 2 * uniform() - 1;
  if (pick(3) == 0) p.frequency_penalty = 2 * uniform() - 1;
  for (int i = pick(30); i > 0; --i) c.prompt.push_back(pick(vocab));
  for (int i = pick(30); i > 0; --i) c.generated.push_back(pick(vocab / 3));
  if (pick(3) == 0) {
    for (int i = 0; i < 5; ++i) p.logit_bias.emplace_back(i * vocab / 5, 8 * uniform() - 4);
  }
  if (pick(3) == 0) {
    for (int i = 0; i < vocab / 4; ++i) p.allowed_ids.push_back(pick(vocab));
    p.allowed_ids.push_back(1);
  }
  if (pick(3) == 0) {
    for (int i = 0; i < vocab / 4; ++i) p.banned_ids.push_back(2 + pick(vocab - 2));
  }
  if (pick(3) == 0) c.masked = {0, 2};
  if (pick(3) == 0) {
    for (int i = 0; i < (vocab + 31) / 32; ++i)
      c.mask.push_back(static_cast<uint32_t>((*random)()));
    c.mask[0] |= 2;  // Id 1, which nothing else excludes.
    if (c.mask.size() > 2) c.mask[1] = ~uint32_t{0};
  }
  return c;
}

// Does drawing `token` with the uniform number `u` agree with inverting this distribution in the
// order of ids? 2e-5: float32 weights, and arguments of exp rounded at 87 * 2^-24.
inline bool Agrees(const std::vector<double>& p, int32_t token, double u) {
  constexpr double kTolerance = 2e-5;
  double before = 0;
  for (int i = 0; i < token; ++i) before += p[i];
  return p[token] > 0 && before <= u + kTolerance && u <= before + p[token] + kTolerance;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_SAMPLING_REFERENCE_H_
