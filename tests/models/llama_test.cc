// Llama, whose folders `transformers` writes: what its config.json says and is read as.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "models/config.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// SmolLM2-135M's, shortened in layers.
constexpr char kSmol[] = R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": [0, 2], "hidden_act": "silu",
  "hidden_size": 576, "initializer_range": 0.04, "intermediate_size": 1536,
  "is_llama_config": true, "max_position_embeddings": 8192, "model_type": "llama",
  "num_attention_heads": 9, "num_hidden_layers": 2, "num_key_value_heads": 3, "pretraining_tp": 1,
  "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
  "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers.js_config": {"dtype": 1},
  "transformers_version": "4.40.1", "use_cache": true, "vocab_size": 49152})";

TEST(Llama, ReadsAllFields) {
  const auto config = ParseModelConfig(kSmol);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, "llama");
  EXPECT_EQ(config->vocab_size, 49152);
  EXPECT_EQ(config->hidden_size, 576);
  EXPECT_EQ(config->intermediate_size, 1536);
  EXPECT_EQ(config->activation, Activation::kSwiglu);
  EXPECT_EQ(config->norm_eps, 1e-5f);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_EQ(config->max_context, 8192);
  EXPECT_EQ(config->bos_id, 0);
  EXPECT_THAT(config->eos_ids, ElementsAre(0, 2));
  ASSERT_EQ(config->mixers.size(), 2u);
  const AttentionSpec& attention = AttentionAt(0, *config);
  EXPECT_EQ(attention.num_heads, 9);
  EXPECT_EQ(attention.num_kv_heads, 3);
  EXPECT_EQ(attention.head_dim, 64);
  EXPECT_EQ(attention.window, 0);
  EXPECT_EQ(attention.rope_base, 100000.0);
  EXPECT_FALSE(attention.qkv_bias);
  EXPECT_FALSE(attention.qk_norm);
}

TEST(Llama, DefaultsAreThoseOfTransformers) {
  const auto config = ParseModelConfig(R"({"model_type": "llama"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 32000);
  EXPECT_EQ(config->hidden_size, 4096);
  EXPECT_EQ(config->intermediate_size, 11008);
  EXPECT_EQ(config->norm_eps, 1e-6f);
  EXPECT_FALSE(config->tie_embeddings);
  EXPECT_EQ(config->max_context, 2048);
  EXPECT_EQ(config->bos_id, 1);
  EXPECT_THAT(config->eos_ids, ElementsAre(2));
  EXPECT_EQ(config->mixers.size(), 32u);
  EXPECT_EQ(AttentionAt(0, *config).num_heads, 32);
  EXPECT_EQ(AttentionAt(0, *config).num_kv_heads, 32);
  EXPECT_EQ(AttentionAt(0, *config).head_dim, 128);
  EXPECT_EQ(AttentionAt(0, *config).rope_base, 10000.0);
}

// On q, k, v and o; on all three matrices of the feed-forward.
TEST(Llama, BiasesOfAttentionAndOfFeedForwards) {
  const ModelConfig plain = Parse(kSmol);
  EXPECT_FALSE(AttentionAt(0, plain).qkv_bias || AttentionAt(0, plain).out_bias ||
               plain.feed_forward_bias);
  const ModelConfig attention =
      Parse(With(kSmol, "\"attention_bias\": false", "\"attention_bias\": true"));
  EXPECT_TRUE(AttentionAt(0, attention).qkv_bias && AttentionAt(0, attention).out_bias);
  EXPECT_FALSE(attention.feed_forward_bias);
  const ModelConfig mlp = Parse(With(kSmol, "\"use_cache\"", "\"mlp_bias\": true, \"use_cache\""));
  EXPECT_TRUE(mlp.feed_forward_bias);
  EXPECT_FALSE(AttentionAt(0, mlp).qkv_bias || AttentionAt(0, mlp).out_bias);
}

// transformers writes both, null where there is none; one that is left out is that of LlamaConfig.
TEST(Llama, AnEndOfNullIsNone) {
  const ModelConfig none = Parse(R"({"model_type": "llama", "bos_token_id": null,
      "eos_token_id": null})");
  EXPECT_EQ(none.bos_id, -1);
  EXPECT_THAT(none.eos_ids, IsEmpty());
  const ModelConfig small = Parse(R"({"model_type": "llama", "vocab_size": 2})");
  EXPECT_EQ(small.bos_id, 1);
  EXPECT_THAT(small.eos_ids, IsEmpty());  // 2 is no token of it.
}

TEST(Llama, SiluHasTwoNames) {
  const auto config = ParseWith(kSmol, "\"silu\"", "\"swish\"");
  EXPECT_TRUE(config.ok()) << config.status();
}

TEST(Llama, HeadsNeedNotDivideTheModel) {
  const auto config =
      ParseWith(kSmol, "\"hidden_size\": 576", "\"head_dim\": 80, \"hidden_size\": 575");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(AttentionAt(0, *config).head_dim, 80);
}

// Llama 3.1's, as transformers 4 and 5 write it.
TEST(Llama, RotaryPositionsMayBeScaled) {
  const std::string scaling =
      R"("factor": 32.0, "high_freq_factor": 4.5, "low_freq_factor": 1.5,
         "original_max_position_embeddings": 2048, "rope_type": "llama3")";
  for (const std::string& object :
       {"\"rope_scaling\": {" + scaling + "}",
        "\"rope_parameters\": {\"rope_theta\": 100000, " + scaling + "}",
        "\"rope_scaling\": {\"type\": \"llama3\", " + scaling + "}"}) {
    const auto config = ParseWith(kSmol, "\"rope_scaling\": null", object);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(AttentionAt(0, *config).rope_base, 100000.0);
    EXPECT_EQ(AttentionAt(0, *config).rope_scaling, (RopeScaling{32.0, 1.5, 4.5, 2048}));
  }
  const auto linear = ParseWith(kSmol, "\"rope_scaling\": null",
                                R"("rope_scaling": {"type": "linear", "factor": 4})");
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ(AttentionAt(0, *linear).rope_scaling, (RopeScaling{4.0}));
}

TEST(Llama, ScalingBeginsAtTheModelsOwnContextWhereNoneIsTold) {
  for (const std::string type :
       {R"("yarn")", R"("llama3", "low_freq_factor": 1, "high_freq_factor": 4)"}) {
    const auto config = ParseWith(kSmol, "\"rope_scaling\": null",
                                  "\"rope_scaling\": {\"factor\": 4, \"rope_type\": " + type + "}");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(AttentionAt(0, *config).rope_scaling.original_context, config->max_context);
  }
}

RopeScaling Yarn(const std::string& more) {
  const ModelConfig config = Parse(With(kSmol, "\"rope_scaling\": null",
                                        R"("rope_scaling":
      {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048)" +
                                            more + "}"));
  return AttentionAt(0, config).rope_scaling;
}

// What transformers takes for fields that are not there, and for those that are null.
TEST(Llama, RotaryPositionsMayBeScaledByYarn) {
  using Ramp = RopeScaling::Ramp;
  const double usual = 1.1386294361119891;
  EXPECT_EQ(Yarn(""), (RopeScaling{4.0, 1.0, 32.0, 2048, Ramp::kWholeChannels, usual}));
  EXPECT_EQ(Yarn(R"(, "beta_fast": null, "beta_slow": null, "attention_factor": null)"), Yarn(""));
  EXPECT_EQ(Yarn(R"(, "beta_fast": 16, "beta_slow": 1.5, "truncate": false)"),
            (RopeScaling{4.0, 1.5, 16.0, 2048, Ramp::kChannels, usual}));
  EXPECT_EQ(Yarn(R"(, "truncate": null)").ramp, Ramp::kChannels);
  EXPECT_EQ(Yarn(R"(, "attention_factor": 1.5, "mscale": 2, "mscale_all_dim": 1)").attention_factor,
            1.5);
  EXPECT_EQ(Yarn(R"(, "mscale": 1.0, "mscale_all_dim": 1.0)").attention_factor, 1.0);
  EXPECT_NEAR(Yarn(R"(, "mscale": 0.8, "mscale_all_dim": 0.3)").attention_factor,
              (1 + 0.08 * std::log(4.0)) / (1 + 0.03 * std::log(4.0)), 1e-15);
  // One of them alone, or one of 0, says nothing.
  EXPECT_EQ(Yarn(R"(, "mscale": 0.8)"), Yarn(""));
  EXPECT_EQ(Yarn(R"(, "mscale": 0.0, "mscale_all_dim": 0.3)"), Yarn(""));
  // Ends of 0 are the paper's, as of null.
  EXPECT_EQ(Yarn(R"(, "beta_fast": 0, "beta_slow": 0.0)"), Yarn(""));
}

RopeScaling Rope(const std::string& text) {
  return AttentionAt(0, Parse(With(kSmol, "\"rope_scaling\": null", text))).rope_scaling;
}

// kSmol has a context of 8192.
TEST(Llama, AFactorOfNullIsThatOfTheContexts) {
  const std::string yarn = R"("rope_scaling": {"rope_type": "yarn", "factor": )";
  const RopeScaling scaling = Rope(yarn + R"(null, "original_max_position_embeddings": 1280})");
  EXPECT_EQ(scaling, Rope(yarn + R"(6.4, "original_max_position_embeddings": 1280})"));
  EXPECT_EQ(scaling.factor, 6.4);
  EXPECT_EQ(Rope(yarn + "null}").factor, 1.0);
  // One outside counts, whatever is inside.
  EXPECT_EQ(Rope(R"("original_max_position_embeddings": 1280, )" + yarn +
                 R"(null, "original_max_position_embeddings": 64})"),
            scaling);
}

// What transformers computes for texts that are not longer than the original context.
TEST(Llama, LongRopeEndsWhereItsFrequenciesWouldChange) {
  const auto with = [](const std::string& more) {
    std::string factors = "1.5";
    for (int i = 1; i < 32; ++i) factors += ", 2";
    return R"("rope_scaling": {"rope_type": "longrope", "short_factor": [)" + factors +
           R"(], "long_factor": [)" + factors + R"(], "original_max_position_embeddings": 1024)" +
           more + "}";
  };
  const ModelConfig config = Parse(With(kSmol, "\"rope_scaling\": null", with("")));
  const RopeScaling& scaling = AttentionAt(0, config).rope_scaling;
  ASSERT_EQ(scaling.divisors.size(), 32u);
  EXPECT_EQ(scaling.divisors[0], 1.5);
  EXPECT_EQ(scaling.divisors[31], 2.0);
  EXPECT_DOUBLE_EQ(scaling.attention_factor, std::sqrt(1.3));  // ln 8 / ln 1024
  EXPECT_EQ(config.max_context, 1024);
  ASSERT_EQ(config.warnings.size(), 1u);
  EXPECT_THAT(config.warnings[0], testing::HasSubstr("texts end at 1024 tokens"));
  EXPECT_DOUBLE_EQ(Rope(with(R"(, "factor": 4.0)")).attention_factor, std::sqrt(1.2));
  EXPECT_EQ(Rope(with(R"(, "factor": 0.5)")).attention_factor, 1.0);
  EXPECT_EQ(Rope(with(R"(, "factor": 4.0, "attention_factor": 1.75)")).attention_factor, 1.75);
  const ModelConfig whole =
      Parse(With(With(kSmol, "\"rope_scaling\": null", with("")),
                 "\"max_position_embeddings\": 8192", "\"max_position_embeddings\": 1024"));
  EXPECT_EQ(whole.max_context, 1024);
  EXPECT_EQ(AttentionAt(0, whole).rope_scaling.attention_factor, 1.0);
  EXPECT_THAT(whole.warnings, IsEmpty());
}

TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    Llama, Refused,
    Changes(
        kSmol,
        {{"WideHeadsTogether", "\"num_attention_heads\": 9",
          "\"head_dim\": 256, \"num_attention_heads\": 258",
          "head_dim: is 256, with 258 heads; together at most 65536"},
         {"Dynamic", "\"rope_scaling\": null",
          R"("rope_scaling": {"type": "dynamic", "factor": 8.0})",
          "rope_scaling.type: is \"dynamic\", whose frequencies depend on how long a text "
          "becomes; must be default, linear, llama3, yarn or longrope"},
         {"LongRope", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "longrope", "factor": 8.0})",
          "rope_scaling.short_factor: must be a list of numbers, one for each channel"},
         {"LongRopeOfOtherHeads", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "longrope", "short_factor": [1, 2], "long_factor": [1]})",
          "rope_scaling.short_factor: has 2 numbers; must be 32, half of the channels"},
         {"LongRopeOfNoNumber", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "longrope", "short_factor": [1, 0]})",
          "rope_scaling.short_factor: holds 0; must be numbers from 0.01 to 1e+06"},
         {"LongRopeWithoutLong", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "longrope", "short_factor": [1]})",
          "rope_scaling.long_factor: must be a list"},
         {"LongRopeOfOneToken", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1],
                  "original_max_position_embeddings": 1})",
          "rope_scaling.original_max_position_embeddings: is 1; must be more"},
         {"YarnOfAShorterContext", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": null,
                  "original_max_position_embeddings": 16384})",
          "rope_scaling.factor: is null, so that max_position_embeddings make it 0.5 times 16384"},
         {"Proportional", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "proportional"})",
          "rope_scaling.rope_type: is \"proportional\"; must be default, linear, llama3, yarn"},
         {"YarnFromText", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 8.0,
                  "original_max_position_embeddings": "64"})",
          "rope_scaling.original_max_position_embeddings: is \"64\"; must be an integer from 1"},
         {"YarnWithoutFactor", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 64})",
          "rope_scaling.factor: missing"},
         {"YarnBetas", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": 0.5})",
          "rope_scaling.beta_fast: is 0.5; must be at least beta_slow, 1"},
         {"YarnFast", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": "32"})",
          "rope_scaling.beta_fast: is \"32\"; must be a number from 1e-06 to 1e+06"},
         {"YarnSlow", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_slow": -1})",
          "rope_scaling.beta_slow: is -1; must be a number from 1e-06 to 1e+06"},
         {"YarnTruncate", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": 1})",
          "rope_scaling.truncate: is 1; must be true or false"},
         {"YarnScale", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": -1})",
          "rope_scaling.mscale: is -1; must be a number from 0 to 1e+06"},
         {"YarnScaleOfAll", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale_all_dim": true})",
          "rope_scaling.mscale_all_dim: is true; must be a number from 0 to 1e+06"},
         {"YarnAttention", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "attention_factor": 0})",
          "rope_scaling.attention_factor: is 0; must be a number from 1e-06 to 1e+06"},
         {"YarnUnknown", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "finetuned": true,
                  "original_max_position_embeddings": 64})",
          "rope_scaling.finetuned: is unknown here"},
         {"YarnWithoutBase", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "yarn", "factor": 2, "rope_theta": 1,
                  "original_max_position_embeddings": 64})",
          "rope_theta: is 1; must be more than 1 where yarn scales frequencies"},
         {"TwoTypes", "\"rope_scaling\": null",
          R"("rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 8.0})",
          "rope_scaling.type: is \"linear\"; only \"llama3\" is served"},
         {"TwoScalings", "\"rope_scaling\": null",
          R"("rope_parameters": {"rope_type": "default"},
                  "rope_scaling": {"rope_type": "linear", "factor": 8.0})",
          "rope_scaling: is not as rope_parameters; must be the same"},
         {"HalfAScaling", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0})",
          "rope_scaling.high_freq_factor: missing"},
         {"NoFactor", "\"rope_scaling\": null", R"("rope_scaling": {"rope_type": "linear"})",
          "rope_scaling.factor: missing"},
         {"ScalingUpsideDown", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                  "high_freq_factor": 4.0, "original_max_position_embeddings": 64})",
          "rope_scaling.high_freq_factor: is 4; must be more than low_freq_factor, 4"},
         {"FactorBelowOne", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "linear", "factor": 0.5})",
          "rope_scaling.factor: is 0.5; must be a number from 1 to 1e+06"},
         {"OneTypeWithTheFieldsOfAnother", "\"rope_scaling\": null",
          R"("rope_scaling": {"rope_type": "linear", "factor": 2, "low_freq_factor": 4.0})",
          "rope_scaling.low_freq_factor: is unknown here"},
         {"Bias", "\"attention_bias\": false", "\"attention_bias\": 1",
          "attention_bias: is 1; must be true or false"},
         {"MlpBias", "\"use_cache\"", "\"mlp_bias\": \"all\", \"use_cache\"",
          "mlp_bias: is \"all\"; must be true or false"},
         {"Pruned", "\"use_cache\"", "\"pruned_heads\": {\"1\": [0]}, \"use_cache\"",
          "pruned_heads: is an object; only an empty object is served"},
         {"Interleaved", "\"rope_interleaved\": false", "\"rope_interleaved\": true",
          "rope_interleaved: is true"},
         {"Activation", "\"silu\"", "\"gelu\"", "hidden_act: is \"gelu\"; must be silu or swish"},
         {"Quantised", "\"use_cache\"", "\"quantization_config\": {}, \"use_cache\"",
          "quantization_config: is unknown here"},
         {"Window", "\"use_cache\"", "\"sliding_window\": 512, \"use_cache\"",
          "sliding_window: is unknown here"},
         {"HeadsDoNotDivide", "\"hidden_size\": 576", "\"hidden_size\": 575",
          "num_attention_heads: is 9; must divide the hidden size 575"},
         {"OddHeads", "\"use_cache\"", "\"head_dim\": 63, \"use_cache\"",
          "head_dim: is 63; must be even"},
         {"WideHeads", "\"use_cache\"", "\"head_dim\": 258, \"use_cache\"",
          "head_dim: is 258; must be an integer from 2 to 256"},
         {"KeyHeads", "\"num_key_value_heads\": 3", "\"num_key_value_heads\": 2",
          "num_key_value_heads: is 2; must divide the 9 heads"}}),
    NameOfChange);

// Snapshots belong to a model by it: what tensors do not tell is in it, and what older models do
// not have leaves theirs as it was.
TEST(Attention, IdentityTellsWhatTensorsDoNot) {
  AttentionSpec attention;
  attention.num_heads = 4;
  attention.head_dim = 32;
  const std::string plain = attention.Identity();
  EXPECT_EQ(plain, "attention 4 0 10000");
  attention.rotary_dim = 8;
  const std::string partial = attention.Identity();
  EXPECT_NE(partial, plain);
  attention.rotary_dim = 16;
  EXPECT_NE(attention.Identity(), partial);
  attention.rotary_dim.reset();
  attention.rope_scaling = {8.0, 1.0, 4.0, 8192};
  const std::string scaled = attention.Identity();
  EXPECT_NE(scaled, plain);
  attention.rope_scaling.original_context = 4096;
  EXPECT_NE(attention.Identity(), scaled);
  attention.rope_scaling.ramp = RopeScaling::Ramp::kChannels;
  const std::string by_channels = attention.Identity();
  EXPECT_NE(by_channels, scaled);
  attention.rope_scaling.ramp = RopeScaling::Ramp::kWholeChannels;
  EXPECT_NE(attention.Identity(), by_channels);
  attention.rope_scaling = {};
  attention.rope_scaling.attention_factor = 1.25;
  EXPECT_NE(attention.Identity(), plain);
  attention.rope_scaling.divisors.assign(16, 1.5);
  const std::string divided = attention.Identity();
  EXPECT_NE(divided, plain);
  attention.rope_scaling.divisors[15] = 1.25;
  EXPECT_NE(attention.Identity(), divided);
  attention.rope_scaling = {};
  attention.norm_plus_one = true;
  EXPECT_NE(attention.Identity(), plain);
}

}  // namespace
}  // namespace packrat
