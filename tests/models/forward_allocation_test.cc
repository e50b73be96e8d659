// A forward pass allocates nothing: its scratch is made when the model is loaded.
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "models/cpu_model.h"
#include "models/owned_state.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

class ForwardAllocationTest : public testing::TestWithParam<const char*> {};

TEST_P(ForwardAllocationTest, NoneForPromptsAndForDecoding) {
  ModelOptions options;
  options.max_batch_tokens = 64;
  options.threads = 2;
  const int64_t at_start = NumAllocations();
  auto loaded = LoadCpuModel(std::string("tests/golden/") + GetParam(), options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_GT(NumAllocations(), at_start) << "the counter does not count";
  LanguageModel* model = loaded->get();
  const auto state = *OwnedState::Create(model, 3, 200);
  std::vector<int32_t> tokens(64, 5);
  for (int position = 0, step = 0; position < 150; ++step) {
    const int n = step % 4 == 0 ? 20 : 1;  // Prompt pieces and decoding in turn.
    Span spans[3];
    SpanStats stats[3];
    for (int s = 0; s < 3; ++s) {
      spans[s] = state->SpanFor(s, s * n, n, position);
      spans[s].num_logits = 1;
    }
    const int64_t before = NumAllocations();
    ASSERT_TRUE(model->Forward({tokens.data(), 3 * n, spans, 3}, state->memory(), stats).ok());
    ASSERT_EQ(NumAllocations(), before) << "at position " << position;
    position += n;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardAllocationTest,
                         testing::Values("rat_local", "mesa_net_hybrid", "packrat",
                                         "gated_delta_net", "mamba2", "lfm2", "rat_plus",
                                         "qwen3_next"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace packrat
