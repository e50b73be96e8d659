// The family qwen3_5: its config.json, alone and within a multimodal one, and the names of tensors
// in checkpoints that hold more than the language model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "models/config.h"
#include "models/cpu_model.h"
#include "models/tools/quantize.h"
#include "tests/models/config_text.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kText[] = R"({"model_type": "qwen3_5_text", "attention_bias": false,
  "attention_dropout": 0.0, "attn_output_gate": true, "dtype": "bfloat16", "eos_token_id": 44,
  "full_attention_interval": 2, "head_dim": 64, "hidden_act": "silu", "hidden_size": 96,
  "initializer_range": 0.02, "intermediate_size": 352,
  "layer_types": ["linear_attention", "full_attention", "linear_attention"],
  "linear_conv_kernel_dim": 3, "linear_key_head_dim": 24, "linear_num_key_heads": 2,
  "linear_num_value_heads": 6, "linear_value_head_dim": 40, "mamba_ssm_dtype": "float32",
  "output_gate_type": "swish",
  "max_position_embeddings": 262144, "mlp_only_layers": [], "mtp_num_hidden_layers": 1,
  "mtp_use_dedicated_embeddings": false, "num_attention_heads": 6, "num_hidden_layers": 3,
  "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_parameters": {"mrope_interleaved": true,
  "mrope_section": [11, 11, 10], "partial_rotary_factor": 0.5, "rope_theta": 10000000,
  "rope_type": "default"}, "tie_word_embeddings": true, "use_cache": true, "vocab_size": 500})";

std::string Multimodal(const std::string& text, const std::string& more = "") {
  return R"({"architectures": ["Qwen3_5ForConditionalGeneration"], "image_token_id": 50,
    "model_type": "qwen3_5", "text_config": )" +
         text + R"(, "transformers_version": "5.2.0", "video_token_id": 51, "vision_config":
    {"depth": 27, "model_type": "qwen3_5"}, "vision_end_token_id": 52,
    "vision_start_token_id": 53)" +
         more + "}";
}

void ExpectAllFields(const ModelConfig& config) {
  EXPECT_EQ(config.vocab_size, 500);
  EXPECT_EQ(config.hidden_size, 96);
  EXPECT_EQ(config.intermediate_size, 352);
  EXPECT_EQ(config.activation, Activation::kSwiglu);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_TRUE(config.norm_plus_one);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.max_context, 262144);
  EXPECT_THAT(config.eos_ids, ElementsAre(44));
  ASSERT_THAT(Kinds(config), ElementsAre("gated_delta_net", "attention", "gated_delta_net"));
  ASSERT_EQ(config.sublayers.size(), 6u);
  EXPECT_EQ(config.sublayers[2].mixers.at(0).tensors, "self_attn.");
  EXPECT_EQ(config.sublayers[4].mixers.at(0).tensors, "linear_attn.");
  const auto& delta = std::get<GatedDeltaSpec>(config.mixers[2]);
  EXPECT_EQ(delta.num_key_heads, 2);
  EXPECT_EQ(delta.num_value_heads, 6);
  EXPECT_EQ(delta.key_dim, 24);
  EXPECT_EQ(delta.value_dim, 40);
  EXPECT_EQ(delta.conv_size, 3);
  const auto& attention = std::get<AttentionSpec>(config.mixers[1]);
  EXPECT_EQ(attention.num_heads, 6);
  EXPECT_EQ(attention.num_kv_heads, 2);
  EXPECT_EQ(attention.head_dim, 64);
  EXPECT_EQ(attention.window, 0);
  EXPECT_EQ(attention.rotary_dim, 32);
  EXPECT_EQ(attention.rope_base, 1e7);
  EXPECT_TRUE(attention.qk_norm && attention.norm_plus_one && attention.output_gate);
  EXPECT_FALSE(attention.qkv_bias);
}

TEST(Qwen35, ReadsAllFields) {
  const auto config = ParseModelConfig(kText);
  ASSERT_TRUE(config.ok()) << config.status();
  ExpectAllFields(*config);
}

TEST(Qwen35, ReadsTheLanguageModelOfAMultimodalOne) {
  // What the part is called does not matter.
  const auto config = ParseModelConfig(Multimodal(
      With(kText, "\"use_cache\"", "\"architectures\": [\"Qwen3_5TextModel\"], \"use_cache\"")));
  ASSERT_TRUE(config.ok()) << config.status();
  ExpectAllFields(*config);
}

TEST(Qwen35, DefaultsAreThoseOfTransformers) {
  const auto config = ParseModelConfig(R"({"model_type": "qwen3_5_text"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 248320);
  EXPECT_EQ(config->hidden_size, 4096);
  EXPECT_EQ(config->intermediate_size, 12288);
  EXPECT_EQ(config->norm_eps, 1e-6f);
  EXPECT_FALSE(config->tie_embeddings);
  EXPECT_EQ(config->max_context, 32768);
  EXPECT_EQ(config->bos_id, -1);
  EXPECT_THAT(config->eos_ids, IsEmpty());
  ASSERT_EQ(config->mixers.size(), 32u);
  const auto& delta = std::get<GatedDeltaSpec>(config->mixers[30]);
  EXPECT_EQ(delta.num_key_heads, 16);
  EXPECT_EQ(delta.num_value_heads, 32);
  EXPECT_EQ(delta.key_dim, 128);
  EXPECT_EQ(delta.value_dim, 128);
  EXPECT_EQ(delta.conv_size, 4);
  const auto& attention = std::get<AttentionSpec>(config->mixers[31]);
  EXPECT_EQ(attention.num_heads, 16);
  EXPECT_EQ(attention.num_kv_heads, 4);
  EXPECT_EQ(attention.head_dim, 256);
  EXPECT_EQ(attention.rotary_dim, 64);
  EXPECT_EQ(attention.rope_base, 10000.0);
}

TEST(Qwen35, LayersFollowTheIntervalWhereNoListSaysOtherwise) {
  const auto config = ParseModelConfig(
      R"({"model_type": "qwen3_5_text", "num_hidden_layers": 4, "full_attention_interval": 2})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(Kinds(*config),
              ElementsAre("gated_delta_net", "attention", "gated_delta_net", "attention"));
}

// transformers 5.19 writes a default outside, whatever is inside, and computes by what is inside.
TEST(Qwen35, RotaryIsReadInsideAndWhereItIsNotThereOutside) {
  const auto attention = [](const std::string& text) {
    const auto config = ParseModelConfig(text);
    EXPECT_TRUE(config.ok()) << config.status();
    return std::get<AttentionSpec>(config->mixers[1]);
  };
  const std::string both =
      With(kText, "\"use_cache\"",
           "\"partial_rotary_factor\": 0.25, \"rope_theta\": 5.0, \"use_cache\"");
  EXPECT_EQ(attention(both).rotary_dim, attention(kText).rotary_dim);
  EXPECT_EQ(attention(both).rope_base, attention(kText).rope_base);
  EXPECT_EQ(attention(With(both, "\"partial_rotary_factor\": 0.5, ", "")).rotary_dim, 16);
  // Where it is null outside and not there inside, all channels are rotated.
  const std::string null = With(With(kText, "\"partial_rotary_factor\": 0.5, ", ""),
                                "\"use_cache\"", "\"partial_rotary_factor\": null, \"use_cache\"");
  EXPECT_EQ(attention(null).rotary_dim, 64);
}

TEST(Qwen35, TyingAndEndsAreReadInsideAndOutside) {
  const std::string loose = With(kText, "\"tie_word_embeddings\": true, ", "");
  EXPECT_FALSE(ParseModelConfig(Multimodal(loose))->tie_embeddings);
  EXPECT_TRUE(
      ParseModelConfig(Multimodal(loose, ", \"tie_word_embeddings\": true"))->tie_embeddings);
  EXPECT_TRUE(ParseModelConfig(Multimodal(kText))->tie_embeddings);
  // save_pretrained() writes both, and the model is tied as the outer one says.
  EXPECT_FALSE(
      ParseModelConfig(Multimodal(kText, ", \"tie_word_embeddings\": false"))->tie_embeddings);
  const auto ends =
      ParseModelConfig(Multimodal(kText, ", \"bos_token_id\": 7, \"eos_token_id\": [44, 45]"));
  ASSERT_TRUE(ends.ok()) << ends.status();
  EXPECT_THAT(ends->eos_ids, ElementsAre(44, 45));
  EXPECT_EQ(ends->bos_id, 7);
}

// Qwen3.5-35B-A3B's text model, shortened in layers.
constexpr char kMoe[] = R"({"model_type": "qwen3_5_moe_text", "attention_bias": false,
  "attention_dropout": 0.0, "attn_output_gate": true, "dtype": "bfloat16", "eos_token_id": 248044,
  "full_attention_interval": 2, "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048,
  "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4,
  "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
  "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32", "max_position_embeddings": 262144,
  "mlp_only_layers": [], "moe_intermediate_size": 512, "mtp_num_hidden_layers": 1,
  "num_attention_heads": 16, "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 2,
  "num_key_value_heads": 2, "output_router_logits": false, "rms_norm_eps": 1e-06,
  "rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10],
  "partial_rotary_factor": 0.25, "rope_theta": 10000000, "rope_type": "default"},
  "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 768, "use_cache": true,
  "vocab_size": 248320})";

void ExpectExperts(const Sublayer& sublayer, int num_experts, int num_chosen, bool normalize) {
  EXPECT_TRUE(sublayer.experts_alone);
  ASSERT_EQ(sublayer.experts.size(), 2u);
  const ExpertsSpec& routed = sublayer.experts[0];
  EXPECT_EQ(routed.num_experts, num_experts);
  EXPECT_EQ(routed.num_chosen, num_chosen);
  EXPECT_EQ(routed.width, 512);
  EXPECT_EQ(routed.score, RouterScore::kSoftmax);
  EXPECT_EQ(routed.normalize, normalize);
  const ExpertsSpec& shared = sublayer.experts[1];
  EXPECT_EQ(shared.num_experts, 1);
  EXPECT_EQ(shared.width, 768);
  EXPECT_EQ(shared.score, RouterScore::kSigmoid);
  EXPECT_FALSE(shared.normalize);
}

TEST(Qwen35Moe, ReadsAllFields) {
  for (const std::string& text :
       {std::string(kMoe), With(Multimodal(kMoe), "\"qwen3_5\"", "\"qwen3_5_moe\"")}) {
    const ModelConfig config = Parse(text);
    EXPECT_EQ(config.hidden_size, 2048);
    EXPECT_TRUE(config.norm_plus_one);
    ASSERT_THAT(Kinds(config), ElementsAre("gated_delta_net", "attention"));
    EXPECT_FALSE(std::get<GatedDeltaSpec>(config.mixers[0]).by_key_head);
    ASSERT_EQ(config.sublayers.size(), 4u);
    for (const int layer : {0, 1}) {
      ExpectExperts(config.sublayers[2 * layer + 1], 256, 8, true);
    }
  }
  EXPECT_THAT(Refusal(With(kMoe, "\"mlp_only_layers\": []", "\"norm_topk_prob\": false")),
              HasSubstr("norm_topk_prob: is false; only true is served"));
  EXPECT_THAT(Refusal(With(kMoe, "\"num_experts\": 256", "\"num_experts\": 0")),
              HasSubstr("num_experts: is 0; must be an integer from 1 to 1024"));
}

// Qwen3-Next-80B-A3B's, shortened in layers.
constexpr char kNext[] = R"({"architectures": ["Qwen3NextForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
  "eos_token_id": 151645, "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu",
  "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5120,
  "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
  "linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 262144,
  "mlp_only_layers": [], "model_type": "qwen3_next", "moe_intermediate_size": 512,
  "norm_topk_prob": true, "num_attention_heads": 16, "num_experts": 512,
  "num_experts_per_tok": 10, "num_hidden_layers": 4, "num_key_value_heads": 2,
  "output_router_logits": false, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 10000000, "router_aux_loss_coef": 0.001,
  "shared_expert_intermediate_size": 768, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.57.0.dev0", "use_cache": true,
  "use_sliding_window": false, "vocab_size": 151936})";

TEST(Qwen3Next, ReadsAllFields) {
  const ModelConfig config = Parse(kNext);
  EXPECT_EQ(config.intermediate_size, 5120);
  EXPECT_TRUE(config.norm_plus_one);
  EXPECT_FALSE(config.tie_embeddings);
  ASSERT_THAT(Kinds(config),
              ElementsAre("gated_delta_net", "gated_delta_net", "gated_delta_net", "attention"));
  EXPECT_TRUE(std::get<GatedDeltaSpec>(config.mixers[0]).by_key_head);
  const auto& attention = std::get<AttentionSpec>(config.mixers[3]);
  EXPECT_EQ(attention.num_kv_heads, 2);
  EXPECT_EQ(attention.rotary_dim, 64);
  EXPECT_EQ(attention.rope_base, 1e7);
  for (int layer = 0; layer < 4; ++layer) {
    ExpectExperts(config.sublayers[2 * layer + 1], 512, 10, true);
  }
}

// On q with its gate, k, v and o, as in all of Qwen's hybrids.
TEST(Qwen3Next, BiasesOfAttention) {
  for (const std::string text : {kText, kMoe, kNext}) {
    const ModelConfig config =
        Parse(With(text, "\"attention_bias\": false", "\"attention_bias\": true"));
    for (const MixerSpec& mixer : config.mixers) {
      const auto* attention = std::get_if<AttentionSpec>(&mixer);
      EXPECT_TRUE(attention == nullptr || (attention->qkv_bias && attention->out_bias));
    }
  }
}

TEST(Qwen3Next, SomeLayersOrAllHavePlainFeedForwards) {
  const auto mixed = [](const std::string& text) {
    std::vector<int> layers;
    for (const Sublayer& sublayer : Parse(text).sublayers) {
      if (!sublayer.experts.empty()) layers.push_back(sublayer.layer);
    }
    return layers;
  };
  EXPECT_THAT(mixed(With(kNext, "\"mlp_only_layers\": []", "\"mlp_only_layers\": [2, 0, 9]")),
              ElementsAre(1, 3));
  EXPECT_THAT(mixed(With(kNext, "sparse_step\": 1", "sparse_step\": 3")), ElementsAre(2));
  EXPECT_THAT(mixed(With(kNext, "\"num_experts\": 512", "\"num_experts\": 0")), IsEmpty());
  for (const char* off : {"\"norm_topk_prob\": false", "\"norm_topk_prob\": null"}) {
    ExpectExperts(Parse(With(kNext, "\"norm_topk_prob\": true", off)).sublayers[1], 512, 10, false);
  }
  EXPECT_THAT(Refusal(With(kNext, "\"mlp_only_layers\": []", "\"mlp_only_layers\": [-1]")),
              HasSubstr("mlp_only_layers: holds -1; a layer must be an integer from 0 to 1024"));
}

TEST_P(Refused, ByNameAloneAndWithin) {
  Change change = GetParam();
  ExpectRefused(change);
  change.config = Multimodal(change.config);
  const std::string inside = std::string("text_config.") + change.message;
  change.message = inside.c_str();
  ExpectRefused(change);
}

INSTANTIATE_TEST_SUITE_P(
    Qwen35, Refused,
    Changes(kText,
            {{"PlainLayers", "\"mlp_only_layers\": []", "\"mlp_only_layers\": [1]",
              "mlp_only_layers: is a list; only an empty list is served"},
             {"NoGate", "\"attn_output_gate\": true", "\"attn_output_gate\": false",
              "attn_output_gate: is false; only true is served"},
             {"Bias", "\"attention_bias\": false", "\"attention_bias\": 0",
              "attention_bias: is 0; must be true or false"},
             {"OutputGate", "\"output_gate_type\": \"swish\"", "\"output_gate_type\": \"sigmoid\"",
              "output_gate_type: is \"sigmoid\"; only \"swish\" is served"},
             {"Experts", "\"mlp_only_layers\": []", "\"num_experts\": 4",
              "num_experts: is unknown here"},
             {"OddRotary", "\"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\": 0.05",
              "partial_rotary_factor: is 0.05, which rotates 3 of a head's 64 channels; must be "
              "an even number of them"},
             {"NoRotary", "\"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\": 0.0",
              "partial_rotary_factor: is 0, which rotates 0 of"},
             {"Yarn", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"",
              "rope_parameters.factor: missing"},
             {"LongRope", "\"rope_type\": \"default\"", "\"rope_type\": \"longrope\"",
              "rope_parameters.short_factor: must be a list of numbers, one for each channel"},
             {"LayerType", "[\"linear_attention\"", "[\"sliding_attention\"",
              "layer_types: layer 0 is \"sliding_attention\"; must be linear_attention or "
              "full_attention"},
             {"KeyHeads", "\"linear_num_key_heads\": 2", "\"linear_num_key_heads\": 4",
              "linear_num_key_heads: is 4; must divide the 6 heads"},
             {"WideKeys", "\"linear_key_head_dim\": 24", "\"linear_key_head_dim\": 512",
              "linear_key_head_dim: is 512; must be an integer from 1 to 256"},
             {"Unknown", "\"use_cache\"", "\"sliding_window\": 4, \"use_cache\"",
              "sliding_window: is unknown here"}}),
    NameOfChange);

TEST(Qwen35, RefusesWhatIsNoMultimodalConfig) {
  EXPECT_THAT(Refusal(R"({"model_type": "qwen3_5"})"), HasSubstr("text_config: missing"));
  EXPECT_THAT(Refusal(R"({"model_type": "qwen3_5", "text_config": 3})"),
              HasSubstr("text_config: must be an object"));
  EXPECT_THAT(Refusal(Multimodal(With(kText, "qwen3_5_text", "qwen3_5_moe_text"))),
              HasSubstr("text_config.model_type: is \"qwen3_5_moe_text\"; only \"qwen3_5_text\""));
  EXPECT_THAT(Refusal(Multimodal(kText, ", \"quantization_config\": {}")),
              HasSubstr("quantization_config: is unknown here"));
}

// A golden as a multimodal checkpoint holds it.
class Nested : public ModelFiles {
 public:
  Nested() : ModelFiles("qwen3_5") {
    for (TensorToWrite& tensor : tensors) {
      tensor.name = With(tensor.name, "model.", "model.language_model.");
    }
    config = Multimodal(config);
    Add("model.visual.patch_embed.proj.weight", {2, 3, 2, 1, 1});
    Add("mtp.fc.weight", {4, 8});
  }
  void Add(const std::string& name, const std::vector<int64_t>& shape) {
    tensors.push_back({name, TensorType::kF32, shape, values_});
  }
  absl::StatusOr<std::unique_ptr<LanguageModel>> Load() {
    Write();
    return LoadCpuModel(dir().path(), Options());
  }
  static ModelOptions Options() {
    ModelOptions options;
    options.max_batch_tokens = options.max_logit_rows = 16;
    options.threads = 1;
    return options;
  }

 private:
  const float values_[32] = {};
};

TEST(Qwen35, TheLanguageModelOfAMultimodalCheckpointIsTheSame) {
  const auto plain = LoadCpuModel("tests/golden/qwen3_5", Nested::Options());
  ASSERT_TRUE(plain.ok()) << plain.status();
  Nested files;
  const auto model = files.Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->fingerprint(), (*plain)->fingerprint());
}

TEST(Qwen35, QuantisingTakesTheLanguageModelOutOfAMultimodalOne) {
  Nested files;
  files.Write();
  TempDir temp;
  absl::Status status = QuantizeModel({files.dir().path(), temp.File("nested"), "int8"});
  ASSERT_TRUE(status.ok()) << status;
  status = QuantizeModel({"tests/golden/qwen3_5", temp.File("plain"), "int8"});
  ASSERT_TRUE(status.ok()) << status;
  const auto nested = LoadCpuModel(temp.File("nested"), Nested::Options());
  ASSERT_TRUE(nested.ok()) << nested.status();
  EXPECT_EQ((*nested)->fingerprint(),
            (*LoadCpuModel(temp.File("plain"), Nested::Options()))->fingerprint());
}

TEST(Qwen35, NestedNamesDoNotHideOthers) {
  Nested surplus;
  surplus.Add("model.audio.weight", {4});
  EXPECT_THAT(std::string(surplus.Load().status().message()), HasSubstr("model.audio.weight"));
  Nested twice;
  twice.Add("model.norm.weight", {32});
  EXPECT_THAT(std::string(twice.Load().status().message()), HasSubstr("model.norm.weight"));
}

// What other families' checkpoints hold beside the model stays surplus.
TEST(Qwen35, OtherFamiliesLeaveNothingOut) {
  ModelFiles files("llama");
  const float values[4] = {};
  files.tensors.push_back({"mtp.fc.weight", TensorType::kF32, {4}, values});
  files.Write();
  const auto model = LoadCpuModel(files.dir().path(), Nested::Options());
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("mtp.fc.weight"));
}

// The scales of norms are stored without the 1: read plainly, the model is another one.
TEST(Qwen35, TheFingerprintTellsPlainNormsApart) {
  const auto config = LoadModelConfig("tests/golden/qwen3_5");
  ASSERT_TRUE(config.ok()) << config.status();
  ModelConfig plain = *config;
  plain.norm_plus_one = false;
  EXPECT_NE(Fingerprint(*config, 1), Fingerprint(plain, 1));
}

}  // namespace
}  // namespace packrat
