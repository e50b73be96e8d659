// What config.json is refused for, with the field and what it may be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/models/config_text.h"

namespace packrat {
namespace {

// 257 equal ids.
const char* const kManyEnds = [] {
  static std::string text = "\"eos_token_id\": [1";
  for (int i = 0; i < 256; ++i) text += ", 1";
  text += "], \"d_ffn\"";
  return text.c_str();
}();

TEST_P(Refused, WithFieldAndRange) { ExpectRefused(GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    Json, Refused,
    Changes(kRat,
            {{"Empty", kRat, "", "not valid JSON"},
             {"List", kRat, "[]", "must be an object"},
             {"NotJson", "{", "{,", "not valid JSON at byte"},
             {"Trailing", "16}", "16} x", "not valid JSON"},
             {"Duplicate", "\"d_ffn\"", "\"d_model\": 64, \"d_ffn\"", "duplicate key \"d_model\""},
             {"Nan", "64", "NaN", "d_model: is \"NaN\"; must be an integer"},
             {"Infinity", "64", "Infinity", "d_model: is \"Infinity\""},
             {"TooLargeForADouble", "64", "1e999", "d_model: is \"1e999\""},
             {"Deep", "64", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]",
              "nested more than 32 levels"},
             {"InvalidUtf8", "rat", "r\xff", "not valid JSON"}}),
    NameOfChange);

INSTANTIATE_TEST_SUITE_P(
    Rat, Refused,
    Changes(kRat,
            {{"ManyEnds", "\"d_ffn\"", kManyEnds, "eos_token_id: has 257 ids; must be at most 256"},
             {"UnknownFamily", "\"rat\"", "\"gpt2\"",
              "model_type: is \"gpt2\"; must be rat, rat_plus, ratplus, mesa_net, "},
             {"Experts", "\"rat\"", "\"qwen3_moe\"",
              "model_type: is \"qwen3_moe\", whose experts are not served; qwen3 is"},
             {"OlderExperts", "\"rat\"", "\"mixtral\"",
              "model_type: is \"mixtral\", whose experts are not served; llama is"},
             {"NoFamily", "\"model_type\"", "\"type\"", "model_type: is \"\""},
             {"FamilyOfWrongType", "\"rat\"", "3", "model_type: is 3; must be a string"},
             {"Missing", "\"d_model\"", "\"dmodel\"",
              "d_model: missing; must be an integer from 1 to 65536"},
             {"Zero", "100", "0", "vocab_size: is 0; must be an integer from 1 to 1048576"},
             {"Negative", "100", "-5", "vocab_size: is -5"},
             {"Fraction", "100", "100.5", "vocab_size: is 100.5"},
             {"Huge", "100", "18446744073709551615", "vocab_size: is 18446744073709551615"},
             {"HugeDouble", "100", "1e300", "vocab_size: is 1e+300"},
             {"String", "100", "\"100\"", "vocab_size: is \"100\""},
             {"Layers", "\"num_layers\": 4", "\"num_layers\": 1025",
              "num_layers: is 1025; must be an integer from 1 to 1024"},
             {"HeadsDoNotDivide", "\"num_head\": 4", "\"num_head\": 5",
              "num_head: is 5; must divide the hidden size 64"},
             {"OddHeads", "\"d_model\": 64", "\"d_model\": 60",
              "num_head: is 4, which makes heads of 15 channels; must be even and at most 256"},
             {"WideHeads", "\"d_model\": 64", "\"d_model\": 2048", "heads of 512 channels"},
             {"GroupsDoNotDivide", "\"ngroups\": 2", "\"ngroups\": 3",
              "ngroups: is 3; must divide the 4 heads"},
             {"Chunk", "\"chunk_size\": 16", "\"chunk_size\": 0",
              "chunk_size: is 0; must be an integer from 1 to 4096"},
             {"Activation", "\"d_ffn\"", "\"act_fn\": \"relu\", \"d_ffn\"",
              "act_fn: is \"relu\"; must be gelu or swiglu"},
             {"Tie", "\"d_ffn\"", "\"tie_embedding\": 1, \"d_ffn\"",
              "tie_embedding: is 1; must be true or false"},
             {"Eps", "\"d_ffn\"", "\"norm_eps\": 0, \"d_ffn\"", "norm_eps: is 0"},
             {"Rope", "\"d_ffn\"", "\"rope_base\": \"x\", \"d_ffn\"", "rope_base: is \"x\""},
             {"Eos", "\"d_ffn\"", "\"eos_token_id\": [1, 100], \"d_ffn\"",
              "eos_token_id: holds 100; an id must be an integer from 0 to 99"},
             {"Bos", "\"d_ffn\"", "\"bos_token_id\": 100, \"d_ffn\"", "bos_token_id: is 100"},
             {"LayerTypesTooShort", "\"d_ffn\"", "\"layer_types\": [\"rat\"], \"d_ffn\"",
              "layer_types: must list the mixers of all 4 layers, has 1"},
             {"LayerTypesNoList", "\"d_ffn\"", "\"layer_types\": \"rat\", \"d_ffn\"",
              "layer_types: must list the mixers of all 4 layers, has 0"},
             {"LayerType", "\"d_ffn\"",
              "\"layer_types\": [\"rat\", \"rat\", \"rat\", \"mesa\"], \"d_ffn\"",
              "layer_types: layer 3 is \"mesa\"; must be rat, local_attention or attention"},
             {"RopeOfRat", "\"d_ffn\"", "\"rope_parameters\": {\"rope_theta\": 5e5}, \"d_ffn\"",
              "rope_parameters: is unknown here"},
             {"NameThatIsNone", "\"d_ffn\"", "\"a\\n\": 1, \"d_ffn\"",
              "\"a\\n\": is unknown here"}}),
    NameOfChange);

INSTANTIATE_TEST_SUITE_P(
    MesaNet, Refused,
    Changes(
        kMesaNet,
        {{"WideFeedForward", "\"hidden_size\": 64", "\"hidden_size\": 65536, \"hidden_ratio\": 64",
          "hidden_ratio: makes an intermediate size of 2796288; must be at most 524288"},
         {"AttnresBlockSize", "\"num_heads\"", "\"attnres_block_size\": 4, \"num_heads\"",
          "attnres_block_size: is unknown here"},
         {"UnknownOfAttn", "\"num_heads\"",
          "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"qk_norm\": true}, \"num_heads\"",
          "attn.qk_norm: is unknown here"},
         {"Steps", "\"num_heads\"", "\"max_cg_step_decoding\": 0, \"num_heads\"",
          "max_cg_step_decoding: is 0"},
         {"ConvSize", "\"num_heads\"", "\"conv_size\": 17, \"num_heads\"",
          "conv_size: is 17; must be an integer from 1 to 16"},
         {"HeadDim", "\"head_dim\": 21", "\"head_dim\": 257", "head_dim: is 257"},
         {"HeadsTimesWidth", "\"num_heads\": 3, \"head_dim\": 21",
          "\"num_heads\": 4096, \"head_dim\": 256", "num_heads * head_dim must be at most 65536"},
         {"Lambda", "\"num_heads\"", "\"lambda_lower_bound\": -0.5, \"num_heads\"",
          "lambda_lower_bound: is -0.5"},
         {"Activation", "\"num_heads\"", "\"hidden_act\": \"gelu\", \"num_heads\"",
          "hidden_act: is \"gelu\""},
         {"AttnNoObject", "\"num_heads\"", "\"attn\": 3, \"num_heads\"", "attn: must be an object"},
         {"AttnNoLayers", "\"num_heads\"", "\"attn\": {\"num_heads\": 4}, \"num_heads\"",
          "attn.layers: must be a list"},
         {"AttnNoHeads", "\"num_heads\"", "\"attn\": {\"layers\": [1]}, \"num_heads\"",
          "attn.num_heads: missing"},
         {"AttnLayer", "\"num_heads\"",
          "\"attn\": [{\"layers\": [4], \"num_heads\": 4}], \"num_heads\"",
          "attn[0].layers: holds 4; a layer must be an integer from 0 to 3"},
         {"AttnLayerTwice", "\"num_heads\"",
          "\"attn\": [{\"layers\": [1], \"num_heads\": 4}, {\"layers\": [1], \"num_heads\": 4}], "
          "\"num_heads\"",
          "attn[1].layers: layer 1 is listed twice"},
         {"AttnKeyHeads", "\"num_heads\"",
          "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"num_kv_heads\": 3}, \"num_heads\"",
          "attn.num_kv_heads: is 3; must divide the 4 heads"},
         {"AttnWindow", "\"num_heads\"",
          "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"window_size\": 0}, \"num_heads\"",
          "attn.window_size: is 0"},
         {"AttnOddHeads", "\"num_heads\"",
          "\"attn\": {\"layers\": [1], \"num_heads\": 64}, \"num_heads\"",
          "heads of 1 channels; must be even"},
         {"Misspelt", "\"num_heads\"", "\"lambda_lower_bond\": 0.1, \"num_heads\"",
          "lambda_lower_bond: is unknown here"},
         {"RopeOfMesaNet", "\"num_heads\"",
          "\"rope_parameters\": {\"rope_theta\": 5e5}, \"num_heads\"",
          "rope_parameters: is unknown here"}}),
    NameOfChange);

INSTANTIATE_TEST_SUITE_P(
    Packrat, Refused,
    Changes(kPackrat,
            {{"ExpertsMissing", "\"rat\": {", "\"experts\": {\"num_experts\": 4}, \"rat\": {",
              "experts.num_chosen: missing; must be an integer from 1 to 4"},
             {"ExpertsChosen", "\"rat\": {",
              R"("experts": {"num_experts": 4, "num_chosen": 5, "width": 8}, "rat": {)",
              "experts.num_chosen: is 5; must be an integer from 1 to 4"},
             {"ExpertsScore", "\"rat\": {", R"("experts": {"num_experts": 4, "num_chosen": 2,
              "width": 8, "score": "tanh"}, "rat": {)",
              "experts.score: is \"tanh\"; must be softmax or sigmoid"},
             {"ExpertsUnknown", "\"rat\": {", R"("experts": {"num_experts": 4, "num_chosen": 2,
              "width": 8, "groups": 2}, "rat": {)",
              "experts.groups: is unknown here"},
             {"DuplicateInside", "\"num_groups\"", "\"chunk_size\": 8, \"num_groups\"",
              "duplicate key \"chunk_size\""},
             {"NoLayerTypes", "\"layer_types\"", "\"layers\"", "layer_types: missing"},
             {"LayerType", "[\"rat\", \"mesa\"]", "[\"rat\", \"mamba\"]",
              "layer_types: layer 1 is \"mamba\""},
             {"LayerTypeNoString", "[\"rat\", \"mesa\"]", "[\"rat\", 5]",
              "layer_types: layer 1 is \"5\""},
             {"MixerMissing", "[\"rat\", \"mesa\"]", "[\"rat\", \"attention\"]",
              "attention: missing, but layer_types uses it"},
             {"MixerNull", "\"mesa\": {\"num_heads\": 2, \"head_dim\": 32}", "\"mesa\": null",
              "mesa: must be an object"},
             {"Groups", "\"num_groups\": 2", "\"num_groups\": 3",
              "rat.num_groups: is 3; must divide the 4 heads"},
             {"Heads", "\"num_heads\": 4", "\"num_heads\": 7",
              "rat.num_heads: is 7; must divide the hidden size 64"},
             {"Window", "[\"rat\", \"mesa\"]",
              "[\"rat\", \"local_attention\"], \"local_attention\": {\"num_heads\": 4}",
              "local_attention.window_size: missing"},
             {"Quantized", "\"rat\": {",
              "\"quantization_config\": {\"quant_method\": \"awq\"}, \"rat\": {",
              "quantization_config: is unknown here"},
             {"HiddenAct", "\"rat\": {", "\"hidden_act\": \"gelu\", \"rat\": {",
              "hidden_act: is \"gelu\"; must be silu or swish"},
             {"Task", "\"rat\": {", "\"architectures\": [\"LlamaModel\"], \"rat\": {",
              "architectures: is \"LlamaModel\"; only models that continue texts from left"},
             {"Classes", "\"rat\": {",
              "\"architectures\": [\"LlamaForSequenceClassification\"], \"rat\": {",
              "architectures: is \"LlamaForSequenceClassification\""},
             {"BothWays", "\"rat\": {",
              "\"architectures\": [\"Lfm2BidirectionalForCausalLM\"], \"rat\": {",
              "architectures: is \"Lfm2BidirectionalForCausalLM\""},
             {"ArchitecturesNoList", "\"rat\": {",
              "\"architectures\": \"LlamaForCausalLM\", \"rat\": {",
              "architectures: is \"LlamaForCausalLM\""},
             {"AttentionBias", "\"rat\": {", "\"attention_bias\": true, \"rat\": {",
              "attention_bias: is true; only false is served"},
             {"InAMixer", "\"chunk_size\": 16", "\"chunk_size\": 16, \"dilation\": 4",
              "rat.dilation: is unknown here"},
             {"RopeScaling", "\"rat\": {",
              "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}, \"rat\": {",
              "rope_scaling.type: is \"linear\"; only \"default\" is served"},
             {"RopeType", "\"rat\": {",
              "\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5}, \"rat\": {",
              "rope_parameters.rope_type: is \"llama3\"; only \"default\" is served"},
             {"RopeFactor", "\"rat\": {", "\"rope_parameters\": {\"factor\": 2}, \"rat\": {",
              "rope_parameters.factor: is unknown here"},
             {"RopePart", "\"rat\": {",
              "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}, \"rat\": {",
              "rope_parameters.partial_rotary_factor: is 0.5; only 1.0 is served"}}),
    NameOfChange);

constexpr char kShortConv[] = R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 1, "layer_types": ["short_conv"],
    "short_conv": {"conv_size": 3}})";

INSTANTIATE_TEST_SUITE_P(
    ShortConv, Refused,
    Changes(kShortConv,
            {{"NoTaps", "\"conv_size\": 3", "",
              "short_conv.conv_size: missing; must be an integer from 1 to 16"},
             {"ManyTaps", "3}", "17}", "short_conv.conv_size: is 17; must be an integer from 1"},
             {"Unknown", "3}", "3, \"activation\": 1}", "short_conv.activation: is unknown here"}}),
    NameOfChange);

constexpr char kRatPlus[] = R"({"model_type": "ratplus", "vocab_size": 100, "d_model": 64,
    "num_layers": 3, "d_ffn": 128, "num_head": 4, "d_head": 16, "seq_len": 128,
    "dilation_size": [1, 16, -1], "local_size": 8, "initial_size": 4, "apply_re": true})";

INSTANTIATE_TEST_SUITE_P(
    RatPlus, Refused,
    Changes(kRatPlus,
            {{"NoDilation", "16, -1", "16, 0",
              "dilation_size: is 0; must be -1 (none) or an integer from 1 to 1073741824"},
             {"Backwards", "16, -1", "16, -2",
              "dilation_size: layer 2 has -2; must be an integer from -1 to 1073741824"},
             {"TooFew", "[1, 16, -1]", "[1, 16]",
              "dilation_size: has 2 numbers; must be one, or one for each of 3 layers"},
             {"Words", "[1, 16, -1]", "[1, 16, \"x\"]", "dilation_size: layer 2 has \"x\""},
             {"Window", "\"local_size\": 8", "\"local_size\": -1",
              "local_size: is -1; must be an integer from 0 to 1073741824"},
             {"Sinks", "\"initial_size\": 4", "\"initial_size\": 1.5",
              "initial_size: is 1.5; must be an integer from 0 to 1073741824"},
             {"HeadDim", "\"d_head\": 16", "\"d_head\": 32", "d_head: is 32; only 16 is served"},
             {"Baseline", "true", "false", "apply_re: is false; only true is served"},
             {"Unknown", "\"d_ffn\"", "\"num_block\": 12, \"d_ffn\"", "num_block: is unknown"}}),
    NameOfChange);

constexpr char kGatedDelta[] = R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 1, "layer_types": ["gated_delta_net"],
    "gated_delta_net": {"num_key_heads": 300, "num_value_heads": 600, "key_dim": 100,
                        "value_dim": 100, "conv_size": 4}})";

INSTANTIATE_TEST_SUITE_P(
    GatedDelta, Refused,
    Changes(kGatedDelta,
            {{"KeyHeads", "300", "400",
              "gated_delta_net.num_key_heads: is 400; must divide the 600 heads"},
             {"NoValueHeads", "600", "0",
              "gated_delta_net.num_value_heads: is 0; must be an integer from 1 to 4096"},
             {"KeyDim", "\"key_dim\": 100", "\"key_dim\": 257",
              "gated_delta_net.key_dim: is 257; must be an integer from 1 to 256"},
             {"WideKeys", "\"key_dim\": 100", "\"key_dim\": 219",
              "num_key_heads: is 300; num_key_heads * key_dim must be at most 65536"},
             {"WideValues", "\"value_dim\": 100", "\"value_dim\": 110",
              "num_value_heads: is 600; num_value_heads * value_dim must be at most 65536"},
             {"NoTaps", "\"conv_size\": 4", "\"conv_size\": 0",
              "gated_delta_net.conv_size: is 0; must be an integer from 1 to 16"},
             {"Missing", ", \"conv_size\": 4", "", "gated_delta_net.conv_size: missing"}}),
    NameOfChange);

constexpr char kMamba2[] = R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 1, "layer_types": ["mamba2"],
    "mamba2": {"num_heads": 600, "num_groups": 300, "head_dim": 100, "state_size": 200,
               "norm": "before_gate", "norm_groups": 5, "time_step_limit": [0, 1]}})";

INSTANTIATE_TEST_SUITE_P(
    Mamba2, Refused,
    Changes(kMamba2,
            {{"Groups", "\"num_groups\": 300", "\"num_groups\": 400",
              "mamba2.num_groups: is 400; must divide the 600 heads"},
             {"NoHeads", "600", "0", "mamba2.num_heads: is 0; must be an integer from 1 to 4096"},
             {"State", "\"state_size\": 200", "\"state_size\": 257",
              "mamba2.state_size: is 257; must be an integer from 1 to 256"},
             {"WideHeads", "\"head_dim\": 100", "\"head_dim\": 110",
              "num_heads: is 600; num_heads * head_dim must be at most 65536"},
             {"WideState", "\"state_size\": 200", "\"state_size\": 219",
              "num_groups: is 300; num_groups * state_size must be at most 65536"},
             {"NoTaps", "\"norm_groups\"", "\"conv_size\": 0, \"norm_groups\"",
              "mamba2.conv_size: is 0; must be an integer from 1 to 16"},
             {"Norm", "before_gate", "beside_gate",
              "mamba2.norm: is \"beside_gate\"; must be none, before_gate or after_gate"},
             {"NormGroups", "\"norm_groups\": 5", "\"norm_groups\": 7",
              "mamba2.norm_groups: is 7; must divide the 600 heads"},
             {"Limits", "[0, 1]", "[1, 0]", "mamba2.time_step_limit: must be two numbers"},
             {"OneLimit", "[0, 1]", "[0]", "mamba2.time_step_limit: must be two numbers"},
             {"NegativeLimit", "[0, 1]", "[-1, 1]", "mamba2.time_step_limit: must be two numbers"},
             {"InfiniteLimits", "[0, 1]",
              "[{\"__float__\": \"Infinity\"}, {\"__float__\": \"Infinity\"}]",
              "mamba2.time_step_limit: must be two numbers"},
             {"NaNLimit", "[0, 1]", "[0, {\"__float__\": \"NaN\"}]",
              "mamba2.time_step_limit: must be two numbers"},
             {"Missing", ", \"state_size\": 200", "", "mamba2.state_size: missing"}}),
    NameOfChange);

TEST(Config, MessagesDoNotRepeatWhatAHostileFileSays) {
  const std::string message =
      Refusal(With(kRat, "\"rat\"", "\"" + std::string(100000, 'x') + "\""));
  EXPECT_LT(message.size(), 400u);
}

}  // namespace
}  // namespace packrat
