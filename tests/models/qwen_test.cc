// Qwen's families of attention alone, whose folders `transformers` writes: what their config.json
// says and is read as.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "models/config.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Qwen2.5-0.5B's, shortened in layers.
constexpr char kQwen2[] = R"({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
  "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896,
  "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768,
  "max_window_layers": 2, "model_type": "qwen2", "num_attention_heads": 14,
  "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
  "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false,
  "use_sliding_window": false, "vocab_size": 151936})";

TEST(Qwen2, ReadsAllFields) {
  const auto config = ParseModelConfig(kQwen2);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "qwen2");
  EXPECT_EQ(config->hidden_size, 896);
  EXPECT_TRUE(config->tie_embeddings);
  ASSERT_EQ(config->mixers.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    const AttentionSpec& attention = AttentionAt(i, *config);
    EXPECT_EQ(attention.num_heads, 14);
    EXPECT_EQ(attention.num_kv_heads, 2);
    EXPECT_EQ(attention.head_dim, 64);
    EXPECT_EQ(attention.window, 0);
    EXPECT_EQ(attention.rope_base, 1000000.0);
    EXPECT_TRUE(attention.qkv_bias);
    EXPECT_FALSE(attention.qk_norm);
  }
  const auto windows =
      ParseWith(kQwen2, "\"use_sliding_window\": false", "\"use_sliding_window\": true");
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(AttentionAt(1, *windows).window, 0);
  EXPECT_EQ(AttentionAt(2, *windows).window, 32768);
  EXPECT_TRUE(AttentionAt(2, *windows).qkv_bias);
  // transformers has biases of q, k and v alone, whatever a file says.
  for (const char* bias : {"false", "true"}) {
    const AttentionSpec layer =
        AttentionAt(0, Parse(With(kQwen2, "\"use_cache\"",
                                  std::string("\"attention_bias\": ") + bias + ", \"use_cache\"")));
    EXPECT_TRUE(layer.qkv_bias && !layer.out_bias);
  }
}

TEST(Qwen2, DefaultsAreThoseOfTransformers) {
  const auto config = ParseModelConfig(R"({"model_type": "qwen2"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 151936);
  EXPECT_EQ(config->intermediate_size, 22016);
  EXPECT_EQ(config->mixers.size(), 32u);
  EXPECT_EQ(AttentionAt(0, *config).num_kv_heads, 32);
  EXPECT_EQ(AttentionAt(0, *config).head_dim, 128);
  EXPECT_EQ(config->bos_id, -1);
  EXPECT_THAT(config->eos_ids, IsEmpty());
}

TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Qwen2, Refused,
                         Changes(kQwen2, {{"Mrope", "\"use_mrope\": false", "\"use_mrope\": true",
                                           "use_mrope: is true; only false is served"}}),
                         NameOfChange);

// Qwen3-0.6B's, shortened in layers.
constexpr char kQwen3[] = R"({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128,
  "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
  "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 1,
  "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 3,
  "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 1000000,
  "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
  "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
  "vocab_size": 151936})";

TEST(Qwen3, ReadsAllFields) {
  const auto config = ParseModelConfig(kQwen3);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "qwen3");
  EXPECT_EQ(config->vocab_size, 151936);
  EXPECT_EQ(config->hidden_size, 1024);
  EXPECT_EQ(config->intermediate_size, 3072);
  EXPECT_EQ(config->activation, Activation::kSwiglu);
  EXPECT_EQ(config->norm_eps, 1e-5f);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_EQ(config->max_context, 40960);
  EXPECT_EQ(config->bos_id, 151643);
  EXPECT_THAT(config->eos_ids, ElementsAre(151645));
  ASSERT_EQ(config->mixers.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    const AttentionSpec& attention = AttentionAt(i, *config);
    EXPECT_EQ(attention.num_heads, 16);
    EXPECT_EQ(attention.num_kv_heads, 8);
    EXPECT_EQ(attention.head_dim, 128);
    EXPECT_EQ(attention.window, 0);
    EXPECT_EQ(attention.rope_base, 1000000.0);
    EXPECT_EQ(attention.rotary_dim, std::nullopt);
    EXPECT_TRUE(attention.qk_norm);
    EXPECT_FALSE(attention.norm_plus_one);
    EXPECT_FALSE(attention.output_gate);
    EXPECT_FALSE(attention.qkv_bias);
  }
}

TEST(Qwen3, DefaultsAreThoseOfTransformers) {
  const auto config = ParseModelConfig(R"({"model_type": "qwen3"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 151936);
  EXPECT_EQ(config->hidden_size, 4096);
  EXPECT_EQ(config->intermediate_size, 22016);
  EXPECT_EQ(config->norm_eps, 1e-6f);
  EXPECT_FALSE(config->tie_embeddings);
  EXPECT_EQ(config->max_context, 32768);
  EXPECT_EQ(config->bos_id, -1);
  EXPECT_THAT(config->eos_ids, IsEmpty());
  EXPECT_EQ(config->mixers.size(), 32u);
  EXPECT_EQ(AttentionAt(0, *config).num_heads, 32);
  EXPECT_EQ(AttentionAt(0, *config).num_kv_heads, 32);
  EXPECT_EQ(AttentionAt(0, *config).head_dim, 128);
  EXPECT_EQ(AttentionAt(0, *config).window, 0);
  EXPECT_EQ(AttentionAt(0, *config).rope_base, 10000.0);
}

TEST(Qwen3, BiasesOfAttention) {
  const AttentionSpec layer =
      AttentionAt(0, Parse(With(kQwen3, "\"attention_bias\": false", "\"attention_bias\": true")));
  EXPECT_TRUE(layer.qkv_bias && layer.out_bias);
}

TEST(Qwen3, HeadsDoNotFollowTheModelsWidth) {
  const auto config = ParseWith(kQwen3, "\"head_dim\": 128,", "");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(AttentionAt(0, *config).head_dim, 128);
}

TEST(Qwen3, KeyHeadsOfNullAreThoseOfQueries) {
  const auto config =
      ParseWith(kQwen3, "\"num_key_value_heads\": 8", "\"num_key_value_heads\": null");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(AttentionAt(0, *config).num_kv_heads, 16);
}

std::vector<int> Windows(const absl::StatusOr<ModelConfig>& config) {
  EXPECT_TRUE(config.ok()) << config.status();
  std::vector<int> windows;
  for (size_t i = 0; config.ok() && i < config->mixers.size(); ++i) {
    windows.push_back(AttentionAt(static_cast<int>(i), *config).window);
  }
  return windows;
}

TEST(Qwen3, SlidingWindows) {
  const std::string off = "\"use_sliding_window\": false", on = "\"use_sliding_window\": true";
  EXPECT_THAT(Windows(ParseWith(kQwen3, "\"sliding_window\": null", "\"sliding_window\": 7")),
              ElementsAre(0, 0, 0));
  // A window of null is none, one that is not there has its default.
  EXPECT_THAT(Windows(ParseWith(kQwen3, off, on)), ElementsAre(0, 0, 0));
  std::string text = kQwen3;
  text.replace(text.find(off), off.size(), on);
  EXPECT_THAT(Windows(ParseWith(text, "\"sliding_window\": null, ", "")),
              ElementsAre(0, 4096, 4096));
  EXPECT_THAT(Windows(ParseWith(text, "\"sliding_window\": null", "\"sliding_window\": 7")),
              ElementsAre(0, 7, 7));
  // The first 28 layers have none unless the file says otherwise.
  const std::string thirty =
      With(With(text, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 30"),
           "\"max_window_layers\": 1,", "");
  const auto windows =
      Windows(ParseWith(thirty, "\"sliding_window\": null", "\"sliding_window\": 7"));
  ASSERT_EQ(windows.size(), 30u);
  EXPECT_EQ(std::vector<int>(windows.begin() + 26, windows.end()), (std::vector<int>{0, 0, 7, 7}));
  EXPECT_THAT(Windows(ParseWith(text, "\"sliding_window\": null",
                                R"("sliding_window": 7, "layer_types": ["sliding_attention",
                                   "full_attention", "sliding_attention"])")),
              ElementsAre(7, 0, 7));
}

INSTANTIATE_TEST_SUITE_P(
    Qwen3, Refused,
    Changes(kQwen3,
            {{"Scaling", "\"rope_scaling\": null",
              R"("rope_scaling": {"rope_type": "dynamic", "factor": 4.0})",
              "rope_scaling.rope_type: is \"dynamic\", whose frequencies depend on"},
             {"Bias", "\"attention_bias\": false", "\"attention_bias\": \"qkv\"",
              "attention_bias: is \"qkv\"; must be true or false"},
             {"MlpBias", "\"use_cache\"", "\"mlp_bias\": true, \"use_cache\"",
              "mlp_bias: is true; only false is served"},
             {"Activation", "\"silu\"", "\"gelu\"",
              "hidden_act: is \"gelu\"; must be silu or swish"},
             {"PartialRotary", "\"rope_scaling\": null", "\"partial_rotary_factor\": 0.5",
              "partial_rotary_factor: is unknown here"},
             {"OddHeads", "\"head_dim\": 128", "\"head_dim\": 63", "head_dim: is 63; must be even"},
             {"KeyHeads", "\"num_key_value_heads\": 8", "\"num_key_value_heads\": 3",
              "num_key_value_heads: is 3; must divide the 16 heads"},
             {"KeyHeadsByDefault", "\"num_key_value_heads\": 8, ", "",
              "num_key_value_heads: is 32; must divide the 16 heads"},
             {"SlidingWithoutWindow", "\"sliding_window\": null",
              R"("layer_types": ["full_attention", "sliding_attention", "full_attention"])",
              "layer_types: layer 1 is \"sliding_attention\"; must be full_attention"},
             {"OtherLayers", "\"sliding_window\": null",
              R"("layer_types": ["full_attention", "full_attention", "linear_attention"])",
              "layer_types: layer 2 is \"linear_attention\"; must be full_attention"},
             {"LayersOfAnotherNumber", "\"sliding_window\": null",
              R"("layer_types": ["full_attention"])",
              "layer_types: must list the mixers of all 3 layers, has 1"}}),
    NameOfChange);

}  // namespace
}  // namespace packrat
