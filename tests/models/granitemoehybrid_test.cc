// The family granitemoehybrid: what its config.json says and is read as.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/config.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::Each;
using testing::ElementsAre;

constexpr char kTiny[] = R"({"model_type": "granitemoehybrid", "attention_bias": true,
  "attention_dropout": 0.0, "attention_multiplier": 0.3, "bos_token_id": 1, "dtype": "float32",
  "embedding_multiplier": 3, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 48,
  "init_method": "mup", "intermediate_size": 80,
  "layer_types": ["linear_attention", "full_attention"], "logits_scaling": 2.5,
  "mamba_chunk_size": 16, "mamba_conv_bias": false, "mamba_d_conv": 3, "mamba_d_head": 12,
  "mamba_d_state": 24, "mamba_expand": 2, "mamba_n_groups": 2, "mamba_n_heads": 8,
  "mamba_proj_bias": true, "max_position_embeddings": 256, "normalization_function": "rmsnorm",
  "num_attention_heads": 4, "num_experts_per_tok": 0, "num_hidden_layers": 2,
  "num_key_value_heads": 2, "num_local_experts": 0, "output_router_logits": false,
  "position_embedding_type": "rope", "residual_multiplier": 0.4, "rms_norm_eps": 1e-05,
  "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}, "router_aux_loss_coef": 0.001,
  "shared_intermediate_size": 72, "tie_word_embeddings": false,
  "time_step_limit": [0.05, {"__float__": "Infinity"}], "transformers_version": "5.24.0",
  "vocab_size": 96})";

const Mamba2Spec& Mamba(const ModelConfig& config, int i) {
  return std::get<Mamba2Spec>(config.mixers.at(i));
}
const AttentionSpec& Attention(const ModelConfig& config, int i) {
  return std::get<AttentionSpec>(config.mixers.at(i));
}

TEST(Granite, ReadsAllFields) {
  const ModelConfig config = Parse(kTiny);
  EXPECT_EQ(config.vocab_size, 96);
  EXPECT_EQ(config.hidden_size, 48);
  EXPECT_EQ(config.intermediate_size, 72);
  EXPECT_EQ(config.activation, Activation::kSwiglu);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(config.max_context, 256);
  EXPECT_EQ(config.embedding_scale, 3.0f);
  EXPECT_EQ(config.logits_scale, 0.4f);
  EXPECT_EQ(config.feed_forward_scale, 0.4f);
  ASSERT_THAT(Kinds(config), ElementsAre("mamba2", "attention"));
  const Mamba2Spec& mamba = Mamba(config, 0);
  EXPECT_EQ(mamba.num_heads, 8);
  EXPECT_EQ(mamba.num_groups, 2);
  EXPECT_EQ(mamba.head_dim, 12);
  EXPECT_EQ(mamba.state_size, 24);
  EXPECT_EQ(mamba.conv_size, 3);
  EXPECT_EQ(mamba.norm, Mamba2Norm::kAfterGate);
  EXPECT_EQ(mamba.norm_groups, 2);
  EXPECT_FALSE(mamba.conv_bias);
  EXPECT_TRUE(mamba.in_bias);
  EXPECT_TRUE(mamba.out_bias);
  EXPECT_EQ(mamba.dt_min, 0.05f);
  EXPECT_EQ(mamba.dt_max, std::numeric_limits<float>::infinity());
  const AttentionSpec& attention = Attention(config, 1);
  EXPECT_EQ(attention.num_heads, 4);
  EXPECT_EQ(attention.num_kv_heads, 2);
  EXPECT_EQ(attention.head_dim, 12);
  EXPECT_EQ(attention.scale, 0.3);
  EXPECT_TRUE(attention.qkv_bias);
  EXPECT_TRUE(attention.out_bias);
  EXPECT_FALSE(attention.rotary_dim.has_value());
  EXPECT_EQ(attention.rope_base, 5000.0);
  std::vector<float> scales;
  for (const Sublayer& sublayer : config.sublayers) {
    for (const MixerPlace& place : sublayer.mixers) scales.push_back(place.scale);
  }
  EXPECT_THAT(scales, ElementsAre(0.4f, 0.4f));
}

TEST(Granite, DefaultsAreThoseOfTransformers) {
  const ModelConfig config = Parse(R"({"model_type": "granitemoehybrid", "num_local_experts": 0})");
  EXPECT_EQ(config.vocab_size, 32000);
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.intermediate_size, 1024);
  EXPECT_EQ(config.embedding_scale, 1.0f);
  EXPECT_THAT(Kinds(config), Each("mamba2"));
  EXPECT_EQ(Kinds(config).size(), 32u);
  EXPECT_EQ(Mamba(config, 0).num_heads, 128);
  EXPECT_EQ(Mamba(config, 0).head_dim, 64);
  EXPECT_EQ(Mamba(config, 0).state_size, 256);
  EXPECT_EQ(Mamba(config, 0).dt_min, 0.0f);
  EXPECT_TRUE(Mamba(config, 0).conv_bias);
  const ModelConfig one = Parse(R"({"model_type": "granitemoehybrid", "num_local_experts": 0,
      "num_hidden_layers": 1, "layer_types": ["attention"]})");
  EXPECT_EQ(Attention(one, 0).scale, 1.0);
}

TEST(Granite, ANullIsFalse) {
  EXPECT_FALSE(Mamba(Parse(With(kTiny, "conv_bias\": false", "conv_bias\": null")), 0).conv_bias);
  EXPECT_TRUE(Mamba(Parse(With(kTiny, "\"mamba_conv_bias\": false,", "")), 0).conv_bias);
}

// As transformers 4 wrote it: other names of layers, a bare Infinity, and no positions.
TEST(Granite, OlderFiles) {
  ModelConfig config = Parse(With(
      With(With(With(kTiny, "\"linear_attention\", \"full_attention\"", "\"mamba\", \"attention\""),
                "{\"__float__\": \"Infinity\"}", "Infinity"),
           "\"rope\"", "\"nope\""),
      "{\"rope_theta\": 5000.0, \"rope_type\": \"default\"}", "null"));
  EXPECT_THAT(Kinds(config), ElementsAre("mamba2", "attention"));
  EXPECT_EQ(Mamba(config, 0).dt_max, std::numeric_limits<float>::infinity());
  EXPECT_EQ(Attention(config, 1).rotary_dim, 0);
  EXPECT_EQ(Kinds(Parse(With(kTiny, "\"layer_types\"", "\"layers_block_type\""))), Kinds(config));
  // Until 5.23, transformers normed all groups together.
  for (const auto& [version, groups] : {std::pair("5.19.0", 1),
                                        {"4.57.1", 1},
                                        {"5.22.0", 1},
                                        {"5.23.0", 2},
                                        {"6.0.0", 2},
                                        {"", 2}}) {
    config = Parse(With(kTiny, "5.24.0", version));
    EXPECT_EQ(Mamba(config, 0).norm_groups, groups) << version;
  }
}

// The sizes of the two smallest.
TEST(Granite, PublishedSizes) {
  for (const auto& [hidden, layers, head_dim, heads] :
       {std::tuple(768, 32, 32, 12), {1536, 40, 64, 12}}) {
    std::string types;
    for (int i = 0; i < layers; ++i) {
      absl::StrAppend(&types, i == 0 ? "" : ", ", i % 10 == 5 ? "\"attention\"" : "\"mamba\"");
    }
    const ModelConfig config = Parse(absl::StrCat(
        R"({"architectures": ["GraniteMoeHybridForCausalLM"], "attention_bias": false,
          "attention_multiplier": 0.015625, "bos_token_id": 100257, "embedding_multiplier": 12,
          "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": )",
        hidden, R"(, "init_method": "mup", "initializer_range": 0.1, "intermediate_size": 2048,
          "layer_types": [)",
        types, R"(], "logits_scaling": 3, "mamba_chunk_size": 256, "mamba_conv_bias": true,
          "mamba_d_conv": 4, "mamba_d_head": )",
        head_dim, R"(, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1,
          "mamba_n_heads": 48, "mamba_proj_bias": false, "max_position_embeddings": 32768,
          "model_type": "granitemoehybrid", "normalization_function": "rmsnorm",
          "num_attention_heads": )",
        heads, R"(, "num_experts_per_tok": 0, "num_hidden_layers": )", layers,
        R"(, "num_key_value_heads": 4, "num_local_experts": 0, "output_router_logits": false,
          "pad_token_id": 100256, "position_embedding_type": "nope", "residual_multiplier": 0.246,
          "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000,
          "router_aux_loss_coef": 0.01, "shared_intermediate_size": 2048,
          "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.56.0",
          "use_cache": true, "vocab_size": 100352})"));
    EXPECT_EQ(config.mixers.size(), static_cast<size_t>(layers));
    EXPECT_EQ(Mamba(config, 0).num_heads * Mamba(config, 0).head_dim, 2 * hidden);
    EXPECT_EQ(Attention(config, 5).head_dim, hidden / heads);
  }
}

// Granite-4.0-H-Tiny's numbers.
TEST(Granite, ExpertsAreBesideTheSharedFeedForward) {
  const ModelConfig config =
      Parse(With(With(With(kTiny, "\"num_local_experts\": 0", "\"num_local_experts\": 64"),
                      "\"num_experts_per_tok\": 0", "\"num_experts_per_tok\": 6"),
                 "\"intermediate_size\": 80", "\"intermediate_size\": 512"));
  EXPECT_EQ(config.intermediate_size, 72);
  ASSERT_EQ(config.sublayers.size(), 4u);
  for (const Sublayer& sublayer : config.sublayers) {
    EXPECT_FALSE(sublayer.experts_alone);
    ASSERT_EQ(sublayer.experts.size(), sublayer.mixers.empty() ? 1u : 0u);
    if (sublayer.experts.empty()) continue;
    const ExpertsSpec& experts = sublayer.experts[0];
    EXPECT_EQ(experts.num_experts, 64);
    EXPECT_EQ(experts.num_chosen, 6);
    EXPECT_EQ(experts.width, 512);
    EXPECT_EQ(experts.score, RouterScore::kSoftmax);
    EXPECT_TRUE(experts.normalize);
    EXPECT_EQ(experts.route_scale, 1.0f);
  }
  // As transformers has it where the file says nothing.
  const ModelConfig bare = Parse(R"({"model_type": "granitemoehybrid"})");
  EXPECT_EQ(bare.sublayers[1].experts.at(0).num_experts, 8);
  EXPECT_EQ(bare.sublayers[1].experts.at(0).num_chosen, 2);
  EXPECT_EQ(bare.sublayers[1].experts.at(0).width, 11008);
}

TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    Granite, Refused,
    Changes(kTiny,
            {{"ManyExperts", "\"num_local_experts\": 0", "\"num_local_experts\": 1025",
              "num_local_experts: is 1025; must be an integer from 0 to 1024"},
             {"NoneChosen", "\"num_local_experts\": 0", "\"num_local_experts\": 4",
              "num_experts_per_tok: is 0; must be an integer from 1 to 1024"},
             {"MoreChosenThanThereAre",
              "\"num_experts_per_tok\": 0, \"num_hidden_layers\": 2,\n"
              "  \"num_key_value_heads\": 2, \"num_local_experts\": 0",
              "\"num_experts_per_tok\": 5, \"num_hidden_layers\": 2, \"num_local_experts\": 4",
              "num_experts_per_tok: is 5; must be at most num_local_experts, 4"},
             {"Heads", "\"mamba_n_heads\": 8", "\"mamba_n_heads\": 6",
              "mamba_n_heads: is 6, of 12 channels each; must make up mamba_expand * hidden_size"},
             {"HeadDim", "\"mamba_d_head\": 12", "\"mamba_d_head\": 13",
              "mamba_n_heads: is 8, of 13 channels each; must make up mamba_expand * hidden_size"},
             {"Groups", "\"mamba_n_groups\": 2", "\"mamba_n_groups\": 3",
              "mamba_n_groups: is 3; must divide the 8 heads"},
             {"State", "\"mamba_d_state\": 24", "\"mamba_d_state\": 257",
              "mamba_d_state: is 257; must be an integer from 1 to 256"},
             {"Limits", "[0.05,", "[-1,", "time_step_limit: must be two numbers"},
             {"Positions", "\"rope\"", "\"alibi\"",
              "position_embedding_type: is \"alibi\"; must be nope or rope"},
             {"TwoLists", "\"layer_types\":", R"("layers_block_type": ["mamba"], "layer_types":)",
              "layers_block_type: is not as layer_types; must be the same"},
             {"Layers", "\"linear_attention\"", "\"mamba1\"", "layer_types: layer 0 is \"mamba1\""},
             {"Act", "\"silu\"", "\"gelu\"", "hidden_act: is \"gelu\""},
             {"Norm", "\"rmsnorm\"", "\"layernorm\"", "normalization_function: is \"layernorm\""},
             {"Logits", "\"logits_scaling\": 2.5", "\"logits_scaling\": 0",
              "logits_scaling: is 0; must be a number from"},
             {"NoScale", "\"attention_multiplier\": 0.3", "\"attention_multiplier\": null",
              "attention_multiplier: is null; must be a number"},
             {"Attention", "\"attention_multiplier\": 0.3", "\"attention_multiplier\": 0",
              "attention_multiplier: is 0; must be a number from"}}),
    NameOfChange);

}  // namespace
}  // namespace packrat
