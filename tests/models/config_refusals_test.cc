// What config.json is refused for, with the field and what it may be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "models/config.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// A config, with one change, and what the refusal must say.
struct Bad {
  const char* name;
  const char* config;
  const char* from;
  const char* to;
  const char* message;
};

class Refused : public testing::TestWithParam<Bad> {};

TEST_P(Refused, WithFieldAndRange) {
  const Bad& bad = GetParam();
  const std::string message = Refusal(With(bad.config, bad.from, bad.to));
  EXPECT_THAT(message, StartsWith("config.json: "));
  EXPECT_THAT(message, HasSubstr(bad.message));
}

INSTANTIATE_TEST_SUITE_P(
    Json, Refused,
    testing::Values(Bad{"Empty", kRat, kRat, "", "not valid JSON"},
                    Bad{"List", kRat, kRat, "[]", "must be an object"},
                    Bad{"NotJson", kRat, "{", "{,", "not valid JSON at byte"},
                    Bad{"Trailing", kRat, "16}", "16} x", "not valid JSON"},
                    Bad{"Duplicate", kRat, "\"d_ffn\"", "\"d_model\": 64, \"d_ffn\"",
                        "duplicate key \"d_model\""},
                    Bad{"DuplicateInside", kPackrat, "\"num_groups\"",
                        "\"chunk_size\": 8, \"num_groups\"", "duplicate key \"chunk_size\""},
                    Bad{"Nan", kRat, "64", "NaN", "d_model: is \"NaN\"; must be an integer"},
                    Bad{"Infinity", kRat, "64", "Infinity", "d_model: is \"Infinity\""},
                    Bad{"TooLargeForADouble", kRat, "64", "1e999", "d_model: is \"1e999\""},
                    Bad{"Deep", kRat, "64",
                        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]",
                        "nested more than 32 levels"},
                    Bad{"InvalidUtf8", kRat, "rat", "r\xff", "not valid JSON"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Rat, Refused,
    testing::Values(
        Bad{"UnknownFamily", kRat, "\"rat\"", "\"gpt2\"",
            "model_type: is \"gpt2\"; must be rat, mesa_net, llama, qwen2, qwen3, "
            "qwen3_5_text, qwen3_5 or packrat"},
        Bad{"NoFamily", kRat, "\"model_type\"", "\"type\"", "model_type: is \"\""},
        Bad{"FamilyOfWrongType", kRat, "\"rat\"", "3", "model_type: is 3; must be a string"},
        Bad{"Missing", kRat, "\"d_model\"", "\"dmodel\"",
            "d_model: missing; must be an integer from 1 to 65536"},
        Bad{"Zero", kRat, "100", "0", "vocab_size: is 0; must be an integer from 1 to 1048576"},
        Bad{"Negative", kRat, "100", "-5", "vocab_size: is -5"},
        Bad{"Fraction", kRat, "100", "100.5", "vocab_size: is 100.5"},
        Bad{"Huge", kRat, "100", "18446744073709551615", "vocab_size: is 18446744073709551615"},
        Bad{"HugeDouble", kRat, "100", "1e300", "vocab_size: is 1e+300"},
        Bad{"String", kRat, "100", "\"100\"", "vocab_size: is \"100\""},
        Bad{"Layers", kRat, "\"num_layers\": 4", "\"num_layers\": 1025",
            "num_layers: is 1025; must be an integer from 1 to 1024"},
        Bad{"HeadsDoNotDivide", kRat, "\"num_head\": 4", "\"num_head\": 5",
            "num_head: is 5; must divide the hidden size 64"},
        Bad{"OddHeads", kRat, "\"d_model\": 64", "\"d_model\": 60",
            "num_head: is 4, which makes heads of 15 channels; must be even and at most 256"},
        Bad{"WideHeads", kRat, "\"d_model\": 64", "\"d_model\": 2048", "heads of 512 channels"},
        Bad{"GroupsDoNotDivide", kRat, "\"ngroups\": 2", "\"ngroups\": 3",
            "ngroups: is 3; must divide the 4 heads"},
        Bad{"Chunk", kRat, "\"chunk_size\": 16", "\"chunk_size\": 0",
            "chunk_size: is 0; must be an integer from 1 to 4096"},
        Bad{"Activation", kRat, "\"d_ffn\"", "\"act_fn\": \"relu\", \"d_ffn\"",
            "act_fn: is \"relu\"; must be gelu or swiglu"},
        Bad{"Tie", kRat, "\"d_ffn\"", "\"tie_embedding\": 1, \"d_ffn\"",
            "tie_embedding: is 1; must be true or false"},
        Bad{"Eps", kRat, "\"d_ffn\"", "\"norm_eps\": 0, \"d_ffn\"", "norm_eps: is 0"},
        Bad{"Rope", kRat, "\"d_ffn\"", "\"rope_base\": \"x\", \"d_ffn\"", "rope_base: is \"x\""},
        Bad{"Eos", kRat, "\"d_ffn\"", "\"eos_token_id\": [1, 100], \"d_ffn\"",
            "eos_token_id: holds 100; an id must be an integer from 0 to 99"},
        Bad{"Bos", kRat, "\"d_ffn\"", "\"bos_token_id\": 100, \"d_ffn\"", "bos_token_id: is 100"},
        Bad{"LayerTypesTooShort", kRat, "\"d_ffn\"", "\"layer_types\": [\"rat\"], \"d_ffn\"",
            "layer_types: must list the mixers of all 4 layers, has 1"},
        Bad{"LayerTypesNoList", kRat, "\"d_ffn\"", "\"layer_types\": \"rat\", \"d_ffn\"",
            "layer_types: must list the mixers of all 4 layers, has 0"},
        Bad{"LayerType", kRat, "\"d_ffn\"",
            "\"layer_types\": [\"rat\", \"rat\", \"rat\", \"mesa\"], \"d_ffn\"",
            "layer_types: layer 3 is \"mesa\"; must be rat, local_attention or attention"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    MesaNet, Refused,
    testing::Values(
        Bad{"AttnresBlockSize", kMesaNet, "\"num_heads\"",
            "\"attnres_block_size\": 4, \"num_heads\"", "attnres_block_size: is unknown here"},
        Bad{"UnknownOfAttn", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"qk_norm\": true}, \"num_heads\"",
            "attn.qk_norm: is unknown here"},
        Bad{"Steps", kMesaNet, "\"num_heads\"", "\"max_cg_step_decoding\": 0, \"num_heads\"",
            "max_cg_step_decoding: is 0"},
        Bad{"ConvSize", kMesaNet, "\"num_heads\"", "\"conv_size\": 17, \"num_heads\"",
            "conv_size: is 17; must be an integer from 1 to 16"},
        Bad{"HeadDim", kMesaNet, "\"head_dim\": 21", "\"head_dim\": 257", "head_dim: is 257"},
        Bad{"HeadsTimesWidth", kMesaNet, "\"num_heads\": 3, \"head_dim\": 21",
            "\"num_heads\": 4096, \"head_dim\": 256", "num_heads * head_dim must be at most 65536"},
        Bad{"Lambda", kMesaNet, "\"num_heads\"", "\"lambda_lower_bound\": -0.5, \"num_heads\"",
            "lambda_lower_bound: is -0.5"},
        Bad{"Activation", kMesaNet, "\"num_heads\"", "\"hidden_act\": \"gelu\", \"num_heads\"",
            "hidden_act: is \"gelu\""},
        Bad{"AttnNoObject", kMesaNet, "\"num_heads\"", "\"attn\": 3, \"num_heads\"",
            "attn: must be an object"},
        Bad{"AttnNoLayers", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"num_heads\": 4}, \"num_heads\"", "attn.layers: must be a list"},
        Bad{"AttnNoHeads", kMesaNet, "\"num_heads\"", "\"attn\": {\"layers\": [1]}, \"num_heads\"",
            "attn.num_heads: missing"},
        Bad{"AttnLayer", kMesaNet, "\"num_heads\"",
            "\"attn\": [{\"layers\": [4], \"num_heads\": 4}], \"num_heads\"",
            "attn[0].layers: holds 4; a layer must be an integer from 0 to 3"},
        Bad{"AttnLayerTwice", kMesaNet, "\"num_heads\"",
            "\"attn\": [{\"layers\": [1], \"num_heads\": 4}, {\"layers\": [1], \"num_heads\": 4}], "
            "\"num_heads\"",
            "attn[1].layers: layer 1 is listed twice"},
        Bad{"AttnKeyHeads", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"num_kv_heads\": 3}, \"num_heads\"",
            "attn.num_kv_heads: is 3; must divide the 4 heads"},
        Bad{"AttnWindow", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"window_size\": 0}, \"num_heads\"",
            "attn.window_size: is 0"},
        Bad{"AttnOddHeads", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 64}, \"num_heads\"",
            "heads of 1 channels; must be even"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Packrat, Refused,
    testing::Values(Bad{"NoLayerTypes", kPackrat, "\"layer_types\"", "\"layers\"",
                        "layer_types: missing"},
                    Bad{"LayerType", kPackrat, "[\"rat\", \"mesa\"]", "[\"rat\", \"mamba\"]",
                        "layer_types: layer 1 is \"mamba\""},
                    Bad{"LayerTypeNoString", kPackrat, "[\"rat\", \"mesa\"]", "[\"rat\", 5]",
                        "layer_types: layer 1 is \"5\""},
                    Bad{"MixerMissing", kPackrat, "[\"rat\", \"mesa\"]", "[\"rat\", \"attention\"]",
                        "attention: missing, but layer_types uses it"},
                    Bad{"MixerNull", kPackrat, "\"mesa\": {\"num_heads\": 2, \"head_dim\": 32}",
                        "\"mesa\": null", "mesa: must be an object"},
                    Bad{"Groups", kPackrat, "\"num_groups\": 2", "\"num_groups\": 3",
                        "rat.num_groups: is 3; must divide the 4 heads"},
                    Bad{"Heads", kPackrat, "\"num_heads\": 4", "\"num_heads\": 7",
                        "rat.num_heads: is 7; must divide the hidden size 64"},
                    Bad{"Window", kPackrat, "[\"rat\", \"mesa\"]",
                        "[\"rat\", \"local_attention\"], \"local_attention\": {\"num_heads\": 4}",
                        "local_attention.window_size: missing"}),
    [](const auto& info) { return info.param.name; });

constexpr char kGatedDelta[] = R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 1, "layer_types": ["gated_delta_net"],
    "gated_delta_net": {"num_key_heads": 300, "num_value_heads": 600, "key_dim": 100,
                        "value_dim": 100, "conv_size": 4}})";

INSTANTIATE_TEST_SUITE_P(
    GatedDelta, Refused,
    testing::Values(
        Bad{"KeyHeads", kGatedDelta, "300", "400",
            "gated_delta_net.num_key_heads: is 400; must divide the 600 heads"},
        Bad{"NoValueHeads", kGatedDelta, "600", "0",
            "gated_delta_net.num_value_heads: is 0; must be an integer from 1 to 4096"},
        Bad{"KeyDim", kGatedDelta, "\"key_dim\": 100", "\"key_dim\": 257",
            "gated_delta_net.key_dim: is 257; must be an integer from 1 to 256"},
        Bad{"WideKeys", kGatedDelta, "\"key_dim\": 100", "\"key_dim\": 219",
            "num_key_heads: is 300; num_key_heads * key_dim must be at most 65536"},
        Bad{"WideValues", kGatedDelta, "\"value_dim\": 100", "\"value_dim\": 110",
            "num_value_heads: is 600; num_value_heads * value_dim must be at most 65536"},
        Bad{"NoTaps", kGatedDelta, "\"conv_size\": 4", "\"conv_size\": 0",
            "gated_delta_net.conv_size: is 0; must be an integer from 1 to 16"},
        Bad{"Missing", kGatedDelta, ", \"conv_size\": 4", "",
            "gated_delta_net.conv_size: missing"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Unknown, Refused,
    testing::Values(
        Bad{"Misspelt", kMesaNet, "\"num_heads\"", "\"lambda_lower_bond\": 0.1, \"num_heads\"",
            "lambda_lower_bond: is unknown here"},
        Bad{"Quantized", kPackrat, "\"rat\": {",
            "\"quantization_config\": {\"quant_method\": \"awq\"}, \"rat\": {",
            "quantization_config: is unknown here"},
        Bad{"HiddenAct", kPackrat, "\"rat\": {", "\"hidden_act\": \"gelu\", \"rat\": {",
            "hidden_act: is \"gelu\"; only \"silu\" is served"},
        Bad{"AttentionBias", kPackrat, "\"rat\": {", "\"attention_bias\": true, \"rat\": {",
            "attention_bias: is true; only false is served"},
        Bad{"InAMixer", kPackrat, "\"chunk_size\": 16", "\"chunk_size\": 16, \"dilation\": 4",
            "rat.dilation: is unknown here"},
        Bad{"RopeScaling", kPackrat, "\"rat\": {",
            "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}, \"rat\": {",
            "rope_scaling.type: is \"linear\"; only \"default\" is served"},
        Bad{"RopeType", kPackrat, "\"rat\": {",
            "\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5}, \"rat\": {",
            "rope_parameters.rope_type: is \"llama3\"; only \"default\" is served"},
        Bad{"RopeFactor", kPackrat, "\"rat\": {",
            "\"rope_parameters\": {\"factor\": 2}, \"rat\": {",
            "rope_parameters.factor: is unknown here"},
        Bad{"RopePart", kPackrat, "\"rat\": {",
            "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}, \"rat\": {",
            "rope_parameters.partial_rotary_factor: is 0.5; only 1.0 is served"},
        Bad{"RopeTwice", kPackrat, "\"rat\": {",
            "\"rope_theta\": 10000, \"rope_parameters\": {\"rope_theta\": 5e5}, \"rat\": {",
            "rope_parameters.rope_theta: is 500000, and rope_theta is 10000; must be the same"},
        Bad{"RopeOfRat", kRat, "\"d_ffn\"", "\"rope_parameters\": {\"rope_theta\": 5e5}, \"d_ffn\"",
            "rope_parameters: is unknown here"},
        Bad{"RopeOfMesaNet", kMesaNet, "\"num_heads\"",
            "\"rope_parameters\": {\"rope_theta\": 5e5}, \"num_heads\"",
            "rope_parameters: is unknown here"},
        Bad{"NameThatIsNone", kRat, "\"d_ffn\"", "\"a\\n\": 1, \"d_ffn\"",
            "\"a\\n\": is unknown here"}),
    [](const auto& info) { return info.param.name; });

TEST(Config, MessagesDoNotRepeatWhatAHostileFileSays) {
  const std::string message =
      Refusal(With(kRat, "\"rat\"", "\"" + std::string(100000, 'x') + "\""));
  EXPECT_LT(message.size(), 400u);
}

}  // namespace
}  // namespace packrat
