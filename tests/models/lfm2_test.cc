// The family lfm2: its config.json as the first published models have it, with older names and
// much that says nothing, and as transformers writes it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

#include "models/config.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::ElementsAre;

// LFM2-350M's, which is shorter than the two of more parameters in numbers alone.
constexpr char kPublished[] = R"({"architectures": ["Lfm2ForCausalLM"],
  "block_auto_adjust_ff_dim": true, "block_dim": 1024, "block_ff_dim": 6656,
  "block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0, "block_multiple_of": 256,
  "block_norm_eps": 1e-05, "block_out_init_scale": 1.0, "block_use_swiglu": true,
  "block_use_xavier_init": true, "bos_token_id": 1, "conv_L_cache": 3, "conv_bias": false,
  "conv_dim": 1024, "conv_dim_out": 1024, "conv_use_xavier_init": true, "eos_token_id": 7,
  "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 1024, "initializer_range": 0.02,
  "max_position_embeddings": 128000, "model_type": "lfm2", "norm_eps": 1e-05,
  "num_attention_heads": 16, "num_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 8,
  "pad_token_id": 0, "rope_theta": 1000000.0, "theta": 1000000.0, "tie_embedding": true,
  "torch_dtype": "bfloat16", "transformers_version": "4.54.0.dev0", "use_cache": true,
  "use_pos_enc": true, "vocab_size": 65536})";

const AttentionSpec& Attention(const ModelConfig& config, int layer) {
  return std::get<AttentionSpec>(config.mixers[layer]);
}
const ShortConvSpec& Conv(const ModelConfig& config, int layer) {
  return std::get<ShortConvSpec>(config.mixers[layer]);
}

std::vector<int> AttentionLayers(const ModelConfig& config) {
  std::vector<int> layers;
  for (size_t i = 0; i < config.mixers.size(); ++i) {
    if (std::holds_alternative<AttentionSpec>(config.mixers[i])) layers.push_back(i);
  }
  return layers;
}

TEST(Lfm2, ReadsAllFields) {
  const ModelConfig config = Parse(kPublished);
  EXPECT_EQ(config.family, "lfm2");
  EXPECT_EQ(config.vocab_size, 65536);
  EXPECT_EQ(config.hidden_size, 1024);
  EXPECT_EQ(config.intermediate_size, 4608);  // 6656 * 2 / 3, up to a multiple of 256.
  EXPECT_EQ(config.activation, Activation::kSwiglu);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_FALSE(config.norm_plus_one);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.max_context, 128000);
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_THAT(config.eos_ids, ElementsAre(7));
  ASSERT_EQ(config.mixers.size(), 16u);
  EXPECT_THAT(AttentionLayers(config), ElementsAre(2, 5, 8, 10, 12, 14));
  EXPECT_EQ(Conv(config, 0).channels, 1024);
  EXPECT_EQ(Conv(config, 0).conv_size, 3);
  const AttentionSpec& attention = Attention(config, 14);
  EXPECT_EQ(attention.num_heads, 16);
  EXPECT_EQ(attention.num_kv_heads, 8);
  EXPECT_EQ(attention.head_dim, 64);
  EXPECT_EQ(attention.window, 0);
  EXPECT_EQ(attention.rope_base, 1e6);
  EXPECT_TRUE(attention.qk_norm);
  EXPECT_FALSE(Conv(config, 0).bias);
}

// LFM2-700M and -1.2B.
TEST(Lfm2, ReadsTheOtherSizes) {
  const auto sized = [](const char* width, const char* feed_forward, const char* heads) {
    std::string text = kPublished;
    for (int i = 0; i < 4; ++i) text = With(text, "1024", width);
    text = With(text, "6656", feed_forward);
    for (int i = 0; i < 2; ++i) text = With(text, "heads\": 16", std::string("heads\": ") + heads);
    return Parse(text);
  };
  EXPECT_EQ(sized("1536", "10240", "24").intermediate_size, 6912);
  const ModelConfig large = sized("2048", "12288", "32");
  EXPECT_EQ(large.intermediate_size, 8192);
  EXPECT_EQ(Attention(large, 2).head_dim, 64);
}

TEST(Lfm2, DefaultsAreThoseOfTransformers) {
  const ModelConfig config = Parse(R"({"model_type": "lfm2"})");
  EXPECT_EQ(config.vocab_size, 65536);
  EXPECT_EQ(config.hidden_size, 2560);
  EXPECT_EQ(config.intermediate_size, 8192);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.max_context, 128000);
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_THAT(config.eos_ids, ElementsAre(2));
  EXPECT_EQ(AttentionLayers(config).size(), 32u);  // Without any list.
  EXPECT_EQ(Attention(config, 0).num_heads, 32);
  EXPECT_EQ(Attention(config, 0).num_kv_heads, 8);
  EXPECT_EQ(Attention(config, 0).rope_base, 1e6);
}

TEST(Lfm2, FeedForwardsFollowFourFields) {
  const auto width = [](const std::string& fields) {
    return Parse(R"({"model_type": "lfm2", )" + fields + "}").intermediate_size;
  };
  EXPECT_EQ(width("\"intermediate_size\": 1000"), 768);
  EXPECT_EQ(width("\"intermediate_size\": 1000, \"block_ff_dim\": 2000"), 1536);
  EXPECT_EQ(width("\"intermediate_size\": 1000, \"block_auto_adjust_ff_dim\": false"), 1000);
  EXPECT_EQ(width("\"intermediate_size\": 1000, \"block_auto_adjust_ff_dim\": null"), 1000);
  EXPECT_EQ(width("\"intermediate_size\": 1000, \"block_ffn_dim_multiplier\": null"), 666);
  EXPECT_EQ(width("\"intermediate_size\": 1000, \"block_ffn_dim_multiplier\": 1.3, "
                  "\"block_multiple_of\": 8"),
            872);  // 865.8 without its fraction.
  EXPECT_EQ(width("\"intermediate_size\": 1000, \"block_multiple_of\": 1"), 666);
  EXPECT_EQ(width("\"intermediate_size\": 1001, \"block_multiple_of\": 1"), 667);
}

TEST(Lfm2, LayersFollowTheListOfTypesOrThatOfNumbers) {
  const std::string list = R"("layer_types": ["conv", "full_attention", "conv"])";
  const std::string three = R"({"model_type": "lfm2", "num_hidden_layers": 3, )";
  EXPECT_THAT(AttentionLayers(Parse(three + list + "}")), ElementsAre(1));
  EXPECT_THAT(AttentionLayers(Parse(three + list + R"(, "full_attn_idxs": [0]})")), ElementsAre(1));
  // Numbers beyond the last layer are nobody's, as in transformers.
  EXPECT_THAT(AttentionLayers(Parse(three + R"("full_attn_idxs": [2, 5]})")), ElementsAre(2));
  EXPECT_THAT(AttentionLayers(Parse(three + R"("full_attn_idxs": []})")), ElementsAre());
}

TEST(Lfm2, ConvolutionsMayHaveBiases) {
  EXPECT_TRUE(Conv(Parse(With(kPublished, "\"conv_bias\": false", "\"conv_bias\": true")), 1).bias);
}

TEST(Lfm2, OlderNamesSayTheSame) {
  const std::string tied = "\"tie_embedding\": true";
  EXPECT_FALSE(Parse(With(kPublished, tied, "\"tie_embedding\": false")).tie_embeddings);
  EXPECT_FALSE(Parse(With(kPublished, tied, "\"tie_word_embeddings\": false")).tie_embeddings);
  EXPECT_TRUE(Parse(With(kPublished, tied + ",", "")).tie_embeddings);
  const ModelConfig config =
      Parse(With(With(kPublished, "\"rope_theta\": 1000000.0, ", ""), "\"theta\": 1000000.0",
                 R"("rope_parameters": {"rope_theta": 5000.0})"));
  EXPECT_EQ(Attention(config, 2).rope_base, 5000.0);
}

// LFM2-8B-A1B's, shortened in layers.
constexpr char kMoe[] = R"({"architectures": ["Lfm2MoeForCausalLM"], "bos_token_id": 1,
  "conv_L_cache": 3, "conv_bias": false, "dtype": "bfloat16", "eos_token_id": 7,
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 7168,
  "layer_types": ["conv", "conv", "full_attention", "conv"], "max_position_embeddings": 128000,
  "model_type": "lfm2_moe", "moe_intermediate_size": 1792, "norm_eps": 1e-05,
  "norm_topk_prob": true, "num_attention_heads": 32, "num_dense_layers": 2, "num_experts": 32,
  "num_experts_per_tok": 4, "num_hidden_layers": 4, "num_key_value_heads": 8, "pad_token_id": 0,
  "rope_theta": 1000000.0, "routed_scaling_factor": 1.0, "tie_embedding": true,
  "transformers_version": "4.57.0", "use_cache": true, "use_expert_bias": true,
  "vocab_size": 65536})";

TEST(Lfm2Moe, ReadsAllFields) {
  const ModelConfig config = Parse(kMoe);
  EXPECT_EQ(config.family, "lfm2_moe");
  EXPECT_EQ(config.hidden_size, 2048);
  EXPECT_EQ(config.intermediate_size, 7168);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_THAT(config.eos_ids, ElementsAre(7));
  EXPECT_THAT(AttentionLayers(config), ElementsAre(2));
  EXPECT_EQ(Attention(config, 2).num_kv_heads, 8);
  EXPECT_EQ(Attention(config, 2).rope_base, 1e6);
  ASSERT_EQ(config.sublayers.size(), 8u);
  for (const int dense : {1, 3}) EXPECT_TRUE(config.sublayers[dense].experts.empty());
  for (const int mixed : {5, 7}) {
    const Sublayer& sublayer = config.sublayers[mixed];
    EXPECT_TRUE(sublayer.experts_alone);
    ASSERT_EQ(sublayer.experts.size(), 1u);
    const ExpertsSpec& experts = sublayer.experts[0];
    EXPECT_EQ(experts.num_experts, 32);
    EXPECT_EQ(experts.num_chosen, 4);
    EXPECT_EQ(experts.width, 1792);
    EXPECT_EQ(experts.score, RouterScore::kSigmoid);
    EXPECT_TRUE(experts.normalize);
    EXPECT_EQ(experts.normalize_eps, 1e-6f);
    EXPECT_EQ(experts.route_scale, 1.0f);
    EXPECT_STREQ(experts.names.bias, "feed_forward.expert_bias");
  }
}

TEST(Lfm2Moe, WhatChangesTheRoute) {
  const auto experts = [](const char* from, const char* to) {
    return Parse(With(kMoe, from, to)).sublayers.back().experts.at(0);
  };
  EXPECT_FALSE(experts("\"norm_topk_prob\": true", "\"norm_topk_prob\": false").normalize);
  EXPECT_FALSE(experts("\"norm_topk_prob\": true", "\"norm_topk_prob\": null").normalize);
  EXPECT_EQ(experts("\"use_expert_bias\": true", "\"use_expert_bias\": false").names.bias, nullptr);
  EXPECT_EQ(experts("\"use_expert_bias\": true", "\"use_expert_bias\": null").names.bias, nullptr);
  EXPECT_EQ(experts("factor\": 1.0", "factor\": 2.5").route_scale, 2.5f);
  EXPECT_TRUE(Parse(With(kMoe, "\"num_dense_layers\": 2", "\"num_dense_layers\": 0"))
                  .sublayers[1]
                  .experts_alone);
}

// What neither shapes nor names of tensors say is in the fingerprint.
TEST(Lfm2Moe, TheFingerprintTellsRoutesApart) {
  const std::string same = Fingerprint(Parse(kMoe), 1);
  for (const auto& [from, to] : {std::pair("per_tok\": 4", "per_tok\": 3"),
                                 {"norm_topk_prob\": true", "norm_topk_prob\": false"},
                                 {"factor\": 1.0", "factor\": 2.5"}}) {
    EXPECT_NE(Fingerprint(Parse(With(kMoe, from, to)), 1), same) << to;
  }
}

TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    Lfm2Moe, Refused,
    Changes(kMoe,
            {{"NoExperts", "\"num_experts\": 32", "\"num_experts\": 0",
              "num_experts: is 0; must be an integer from 1 to 1024"},
             {"ManyChosen", "per_tok\": 4", "per_tok\": 33",
              "num_experts_per_tok: is 33; must be at most num_experts, 32"},
             {"NoWidth", "\"moe_intermediate_size\": 1792", "\"moe_intermediate_size\": 0",
              "moe_intermediate_size: is 0; must be an integer from 1"},
             {"NoScale", "factor\": 1.0", "factor\": 0",
              "routed_scaling_factor: is 0; must be a number from"},
             {"NoLayers", "\"layer_types\": [\"conv\", \"conv\", \"full_attention\", \"conv\"], ",
              "", "layer_types: missing; must list the mixer of every layer"},
             {"Groups", "\"use_cache\": true", "\"n_group\": 2", "n_group: is unknown here"}}),
    NameOfChange);

INSTANTIATE_TEST_SUITE_P(
    Lfm2, Refused,
    Changes(kPublished,
            {{"Experts", "\"use_cache\": true", "\"num_experts\": 32",
              "num_experts: is unknown here"},
             {"ManyTaps", "\"conv_L_cache\": 3", "\"conv_L_cache\": 17",
              "conv_L_cache: is 17; must be an integer from 1 to 16"},
             {"OtherTheta", "\"theta\": 1000000.0,", "\"theta\": 10000.0,",
              "theta: is 10000.0; only 1000000.0 is served"},
             {"OtherEps", "\"block_norm_eps\": 1e-05", "\"block_norm_eps\": 1e-06",
              "block_norm_eps: is 1e-06; only 1e-05 is served"},
             {"NoPositions", "\"use_pos_enc\": true", "\"use_pos_enc\": false",
              "use_pos_enc: is false; only true is served"},
             {"OtherHeads", "\"num_heads\": 16", "\"num_heads\": 8",
              "num_heads: is 8; only 16 is served"},
             {"OtherConv", "\"conv_dim\": 1024", "\"conv_dim\": 512",
              "conv_dim: is 512; only 1024 is served"},
             {"Plain", "\"block_use_swiglu\": true", "\"block_use_swiglu\": false",
              "block_use_swiglu: is false; only true is served"},
             {"Rounded", "\"use_cache\": true", "\"block_ffn_use_quantized_params\": true",
              "block_ffn_use_quantized_params: is true; only false is served"},
             {"WideFeedForward", "\"block_ffn_dim_multiplier\": 1.0",
              "\"block_ffn_dim_multiplier\": 1000",
              "block_ffn_dim_multiplier: is 1000, which makes of intermediate_size"},
             {"NoFeedForward", "\"block_ffn_dim_multiplier\": 1.0",
              "\"block_ffn_dim_multiplier\": 0.0001",
              "block_ffn_dim_multiplier: is 0.0001, which makes of intermediate_size"},
             {"LayerBelow", "[2, 5", "[-1, 5",
              "full_attn_idxs: holds -1; a layer must be an integer from 0 to 1024"},
             {"NoList", "[2, 5, 8, 10, 12, 14]", "5",
              "full_attn_idxs: must be a list of layer numbers"},
             {"OtherLayers", "\"use_cache\": true",
              R"("layer_types": ["conv", "conv", "mamba", "conv", "conv", "conv", "conv", "conv",
                 "conv", "conv", "conv", "conv", "conv", "conv", "conv", "conv"])",
              "layer_types: layer 2 is \"mamba\"; must be conv or full_attention"},
             {"Window", "\"use_cache\": true", "\"sliding_window\": 512",
              "sliding_window: is unknown here"}}),
    NameOfChange);

}  // namespace
}  // namespace packrat
