// The golden cases: weights, tokens and the logits of every position, and the ways to feed them.
#ifndef PACKRAT_TESTS_MODELS_GOLDEN_H_
#define PACKRAT_TESTS_MODELS_GOLDEN_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/files/checkpoint.h"
#include "models/model.h"
#include "models/owned_state.h"

namespace packrat {

inline const std::string kGoldenCases[] = {
    // By references in PyTorch.
    "rat", "rat_local", "rat_plus", "mesa_net", "mesa_net_hybrid", "packrat", "packrat_wide",
    "gated_delta_net", "mamba2", "short_conv", "rg_lru", "experts",
    // By transformers.
    "llama", "llama3", "llama_biases", "llama_yarn", "qwen2", "qwen3", "qwen3_yarn", "qwen3_5",
    "qwen3_5_biases", "qwen3_5_yarn", "qwen3_5_moe", "qwen3_next", "qwen3_next_biases",
    "olmo_hybrid", "olmo_hybrid_biases", "olmo_hybrid_nope", "falcon_h1", "falcon_h1_flags",
    "nemotron_h", "granite_h", "granite_h_biases", "granite_h_groups", "granite_h_moe", "lfm2",
    "lfm2_flags", "lfm2_moe", "recurrent_gemma", "recurrent_gemma_flags"};

struct Golden {
  int batch, tokens, vocab;
  std::vector<int32_t> ids;   // (batch, tokens)
  std::vector<float> logits;  // (batch, tokens, vocab)
};

inline Golden ReadGolden(const std::string& name,
                         const std::string& expected = "expected.safetensors") {
  auto file = Checkpoint::OpenFile("tests/golden/" + name + "/" + expected);
  EXPECT_TRUE(file.ok()) << file.status();
  const TensorView ids = *(*file)->Find("input_ids"), logits = *(*file)->Find("logits");
  Golden golden{static_cast<int>(ids.shape[0]),
                static_cast<int>(ids.shape[1]),
                static_cast<int>(logits.shape[2]),
                {},
                {}};
  golden.ids.resize(ids.bytes / 4);
  golden.logits.resize(logits.bytes / 4);
  EXPECT_TRUE((*file)->Read(ids, 0, ids.bytes, golden.ids.data()).ok());
  EXPECT_TRUE((*file)->Read(logits, 0, logits.bytes, golden.logits.data()).ok());
  return golden;
}

// For Feed(): runs of single tokens with longer pieces between, so that a text is both decoded and
// prompted, and each follows the other, at a third of the steps of a token at a time.
inline auto DecodedMostly() {
  return [random = std::mt19937(11)]() mutable {
    return random() % 8 == 0 ? 1 + static_cast<int>(random() % 24) : 1;
  };
}

// Logits of all rows of the batch, every row fed in pieces of sizes that `piece` returns. `dials`:
// one for each row, where the model has several.
template <class Piece>
std::vector<float> Feed(LanguageModel* model, const Golden& golden, bool together, Piece piece,
                        const std::vector<int>& dials = {}) {
  const auto state = *OwnedState::Create(model, golden.batch, golden.tokens);
  state->Poison();
  std::vector<float> out(golden.logits.size());
  std::vector<int> done(golden.batch, 0);
  const auto step = [&](const std::vector<int>& rows) {
    std::vector<int32_t> tokens;
    std::vector<Span> spans;
    for (int row : rows) {
      const int n = std::min(piece(), golden.tokens - done[row]);
      if (n <= 0) continue;
      Span span = state->SpanFor(row, static_cast<int>(tokens.size()), n, done[row]);
      span.num_logits = n;
      span.solver.cg_tolerance = 1e-6f;
      if (!dials.empty()) span.dial = dials[row];
      spans.push_back(span);
      const auto* from = golden.ids.data() + row * golden.tokens + done[row];
      tokens.insert(tokens.end(), from, from + n);
    }
    if (spans.empty()) return false;
    std::vector<SpanStats> stats(spans.size());
    const float* logits = *model->Forward({tokens.data(), static_cast<int>(tokens.size()),
                                           spans.data(), static_cast<int>(spans.size())},
                                          state->memory(), stats.data());
    for (size_t i = 0; i < spans.size(); ++i) {
      EXPECT_TRUE(stats[i].finite);
      const int row = spans[i].tail;
      const size_t values = static_cast<size_t>(spans[i].num_tokens) * golden.vocab;
      std::copy_n(
          logits, values,
          out.data() + (static_cast<size_t>(row) * golden.tokens + done[row]) * golden.vocab);
      logits += values;
      done[row] += spans[i].num_tokens;
    }
    return true;
  };
  std::vector<int> all(golden.batch);
  for (int row = 0; row < golden.batch; ++row) all[row] = row;
  if (together) {
    while (step(all)) continue;
  } else {
    for (int row : all) {
      while (step({row})) continue;
    }
  }
  return out;
}

inline double RelativeError(const std::vector<float>& out, const std::vector<float>& reference) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double difference = static_cast<double>(out[i]) - reference[i];
    error += difference * difference;
    norm += static_cast<double>(reference[i]) * reference[i];
  }
  return std::sqrt(error / norm);
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_GOLDEN_H_
