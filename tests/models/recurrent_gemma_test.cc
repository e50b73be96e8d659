// The family recurrent_gemma, and the kind rg_lru that it brought.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

#include "models/config.h"
#include "models/state_layout.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::Contains;
using testing::Each;
using testing::ElementsAre;

// RecurrentGemma-2B's, shortened in layers.
constexpr char kPublished[] = R"({"architectures": ["RecurrentGemmaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0, "attention_window_size": 2048,
  "block_types": ["recurrent", "recurrent", "attention"], "bos_token_id": 2, "conv1d_width": 4,
  "embeddings_scale_by_sqrt_dim": true, "eos_token_id": 1, "final_w_init_variance_scale": 0.0769,
  "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2560,
  "intermediate_size": 15360, "logits_soft_cap": 30.0, "lru_width": 2560,
  "model_type": "recurrent_gemma", "num_attention_heads": 10, "num_hidden_layers": 5,
  "num_key_value_heads": 1, "pad_token_id": 0, "partial_rotary_factor": 0.5,
  "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
  "transformers_version": "4.40.0.dev0", "use_cache": true, "vocab_size": 256000,
  "w_init_variance_scale": 0.01})";

TEST(RecurrentGemma, ReadsAllFields) {
  const ModelConfig config = Parse(kPublished);
  EXPECT_EQ(config.family, "recurrent_gemma");
  EXPECT_EQ(config.vocab_size, 256000);
  EXPECT_EQ(config.hidden_size, 2560);
  EXPECT_EQ(config.intermediate_size, 7680);
  EXPECT_EQ(config.activation, Activation::kGeglu);
  EXPECT_TRUE(config.feed_forward_bias);
  EXPECT_EQ(config.norm_eps, 1e-6f);
  EXPECT_TRUE(config.norm_plus_one);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.embedding_scale, 50.5f);  // The root of 2560 is 50.6.
  EXPECT_EQ(config.logits_cap, 30.0f);
  EXPECT_EQ(config.bos_id, 2);
  EXPECT_THAT(config.eos_ids, ElementsAre(1));
  EXPECT_THAT(Kinds(config),
              ElementsAre("rg_lru", "rg_lru", "local_attention", "rg_lru", "rg_lru"));
  const auto& lru = std::get<RgLruSpec>(config.mixers[0]);
  EXPECT_EQ(lru.num_heads, 10);
  EXPECT_EQ(lru.head_dim, 256);
  EXPECT_EQ(lru.conv_size, 4);
  const auto& attention = std::get<AttentionSpec>(config.mixers[2]);
  EXPECT_EQ(attention.num_heads, 10);
  EXPECT_EQ(attention.num_kv_heads, 1);
  EXPECT_EQ(attention.head_dim, 256);
  EXPECT_EQ(attention.window, 2048);
  EXPECT_EQ(attention.rotary_dim, 128);
  EXPECT_EQ(attention.rope_base, 10000.0);
  EXPECT_FALSE(attention.qkv_bias);
  EXPECT_TRUE(attention.out_bias);
}

TEST(RecurrentGemma, DefaultsAreThoseOfTransformers) {
  const ModelConfig config = Parse(R"({"model_type": "recurrent_gemma"})");
  EXPECT_EQ(config.vocab_size, 256000);
  EXPECT_EQ(config.hidden_size, 2560);
  EXPECT_EQ(config.intermediate_size, 3840);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.mixers.size(), 26u);
  EXPECT_EQ(config.max_context, 8192);
  EXPECT_EQ(config.logits_cap, 30.0f);
  EXPECT_EQ(config.bos_id, 2);
  EXPECT_THAT(config.eos_ids, ElementsAre(1));
  const auto& lru = std::get<RgLruSpec>(config.mixers[25]);
  EXPECT_EQ(lru.shape().width(), 2560);
  EXPECT_EQ(lru.num_heads, 10);
  EXPECT_EQ(lru.conv_size, 4);
  const auto& attention = std::get<AttentionSpec>(config.mixers[23]);
  EXPECT_EQ(attention.num_kv_heads, 10);  // As many as heads.
  EXPECT_EQ(attention.window, 2048);
  EXPECT_EQ(attention.rotary_dim, 128);
}

// As the published models have the mixers, which transformers 4 wrote.
TEST(RecurrentGemma, OlderFilesNameTheirBlocksOtherwise) {
  const ModelConfig config = Parse(With(kPublished, "\"block_types\"", "\"_block_types\""));
  EXPECT_THAT(Kinds(config), Contains("local_attention"));
  const ModelConfig other =
      Parse(R"({"model_type": "recurrent_gemma", "_block_types": ["recurrent"]})");
  EXPECT_THAT(Kinds(other), Each("rg_lru"));
}

// The recurrence's own width, halves of odd sizes, and biases.
TEST(RecurrentGemma, SizesOfTheirOwn) {
  const ModelConfig config = Parse(R"({"model_type": "recurrent_gemma", "hidden_size": 64,
      "num_attention_heads": 4, "lru_width": 96, "intermediate_size": 101, "attention_bias": true,
      "block_types": ["attention", "recurrent"], "num_hidden_layers": 3, "conv1d_width": 1,
      "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.25}})");
  EXPECT_THAT(Kinds(config), ElementsAre("local_attention", "rg_lru", "local_attention"));
  EXPECT_EQ(config.intermediate_size, 50);
  EXPECT_EQ(config.embedding_scale, 8.0f);
  EXPECT_EQ(std::get<RgLruSpec>(config.mixers[1]).head_dim, 24);
  EXPECT_EQ(std::get<AttentionSpec>(config.mixers[0]).rotary_dim, 4);
  EXPECT_EQ(std::get<AttentionSpec>(config.mixers[0]).rope_base, 500.0);
  EXPECT_TRUE(std::get<AttentionSpec>(config.mixers[0]).qkv_bias);
  // The root of 2592 is 50.91, and bfloat16 has quarters there.
  const ModelConfig up = Parse(R"({"model_type": "recurrent_gemma", "hidden_size": 2592,
      "num_attention_heads": 12})");
  EXPECT_EQ(up.embedding_scale, 51.0f);
}

// Three rows of 96 channels for the convolution, then the state.
TEST(RgLru, StateIsATail) {
  ModelConfig config;
  config.AddLayer(RgLruSpec{4, 24, 4});
  const StateLayout layout(config);
  EXPECT_EQ(layout.slot_bytes, 0u);
  EXPECT_EQ(layout.tail_bytes, (3u * 96 + 96) * 4);
  EXPECT_TRUE(layout.page_classes.empty());
}

TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    RecurrentGemma, Refused,
    Changes(kPublished,
            {{"Activation", "gelu_pytorch_tanh", "gelu",
              "hidden_activation: is \"gelu\"; only \"gelu_pytorch_tanh\" is served"},
             {"NoScale", "\"embeddings_scale_by_sqrt_dim\": true",
              "\"embeddings_scale_by_sqrt_dim\": false",
              "embeddings_scale_by_sqrt_dim: is false; only true is served"},
             {"NoCap", "\"logits_soft_cap\": 30.0", "\"logits_soft_cap\": 0",
              "logits_soft_cap: is 0; must be a number from 0.001"},
             {"NoFeedForward", "\"intermediate_size\": 15360", "\"intermediate_size\": 1",
              "intermediate_size: is 1; must be at least 2"},
             {"Width", "\"lru_width\": 2560", "\"lru_width\": 2561",
              "num_attention_heads: is 10; must divide lru_width, 2561"},
             {"OtherBlocks", R"("block_types": ["recurrent", "recurrent", "attention"], "bos)",
              R"("block_types": ["mamba"], "bos)",
              "block_types: holds \"mamba\"; must be recurrent or attention"},
             {"OlderBlocks", "\"attention_bias\"",
              R"("_block_types": ["attention"], "attention_bias")",
              "_block_types: is a list; only a list is served"},
             {"OddRotary", "\"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\": 0.02",
              "partial_rotary_factor: is 0.02, which rotates 5"},
             {"ScaledRotary", "\"rope_theta\": 10000.0",
              R"("rope_scaling": {"rope_type": "linear", "factor": 2.0})",
              "rope_scaling.rope_type: is \"linear\"; only \"default\" is served"},
             {"Window", "\"attention_window_size\": 2048", "\"attention_window_size\": 0",
              "attention_window_size: is 0; must be an integer from 1"}}),
    NameOfChange);

}  // namespace
}  // namespace packrat
