#include "models/families/families.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace packrat {
namespace {

constexpr int kMaxIds = 256;
// What the class of a model is called whose text is continued by its head.
constexpr absl::string_view kContinues[] = {"ForCausalLM", "LMHeadModel",
                                            "ForConditionalGeneration"};
constexpr double kMinEps = 1e-20;  // Positive also as a float32.

// Channels of a head where the configuration may say it.
int ReadHeadDim(JsonFields* fields, int num_heads, int hidden_size, std::optional<int> fallback) {
  if (!fallback && fields->Get("head_dim") == nullptr) {
    return EvenHeadDim(fields, "num_attention_heads", num_heads, hidden_size);
  }
  const int head_dim = fields->Int("head_dim", 2, kMaxHeadDim, fallback);
  if (head_dim % 2 != 0) {
    fields->Fail("head_dim", absl::StrCat("is ", head_dim, "; must be even"));
  } else if (head_dim > kMaxHidden / num_heads) {
    fields->Fail("head_dim", absl::StrCat("is ", head_dim, ", with ", num_heads,
                                          " heads; together at most ", kMaxHidden));
  }
  return head_dim;
}

// A model of another task (embedding, classes) may have the same tensors, and would be served as
// one that continues texts without a word. What a part of a model is called does not matter.
void ReadArchitectures(JsonFields* fields) {
  const std::string field = "architectures";
  const Json* list = fields->Get(field);
  if (list == nullptr || list->empty() || fields->Name(field) != field) return;
  const auto continues = [](const Json& item) {
    const std::string name = item.is_string() ? item.get<std::string>() : "";
    return !absl::StrContains(name, "Bidirectional") &&
           std::any_of(std::begin(kContinues), std::end(kContinues),
                       [&](absl::string_view end) { return absl::EndsWith(name, end); });
  };
  if (list->is_array() && std::any_of(list->begin(), list->end(), continues)) return;
  fields->Fail(field,
               absl::StrCat("is ", JsonFields::Shown(list->is_array() ? list->front() : *list),
                            "; only models that continue texts from left to right are served: "
                            "...ForCausalLM, ...LMHeadModel, ...ForConditionalGeneration"));
}

}  // namespace

std::vector<int> ReadIds(JsonFields* fields, const std::string& name, int vocab_size) {
  const Json* value = fields->Get(name);
  if (value == nullptr) return {};
  if (value->is_array() && value->size() > size_t{kMaxIds}) {
    fields->Fail(name, absl::StrCat("has ", value->size(), " ids; must be at most ", kMaxIds));
    return {};
  }
  const std::vector<Json> list =
      value->is_array() ? value->get<std::vector<Json>>() : std::vector<Json>{*value};
  std::vector<int> ids;
  for (const Json& item : list) {
    int id;
    if (!JsonFields::ToInt(item, 0, vocab_size - 1, &id)) {
      fields->Fail(name, absl::StrCat("holds ", JsonFields::Shown(item), "; an id ",
                                      JsonFields::Range(0, vocab_size - 1)));
      return {};
    }
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

void ReadEndIds(JsonFields* fields, ModelConfig* config, int default_bos, int default_eos) {
  // A default beyond the vocabulary is no token's.
  const auto takes = [&](const char* name, int id) {
    return id >= 0 && id < config->vocab_size && fields->Find(name) == nullptr;
  };
  config->bos_id = fields->Int("bos_token_id", 0, config->vocab_size - 1,
                               takes("bos_token_id", default_bos) ? default_bos : -1);
  config->eos_ids = ReadIds(fields, "eos_token_id", config->vocab_size);
  if (takes("eos_token_id", default_eos)) config->eos_ids = {default_eos};
}

float ReadNormEps(JsonFields* fields, const std::string& name, double fallback) {
  return static_cast<float>(fields->Number(name, kMinEps, 1.0, fallback));
}

int ReadSizes(JsonFields* fields, const SizeDefaults& defaults, ModelConfig* config) {
  config->vocab_size = fields->Int("vocab_size", 1, kMaxVocab, defaults.vocab_size);
  config->hidden_size = fields->Int("hidden_size", 1, kMaxHidden, defaults.hidden_size);
  config->intermediate_size =
      fields->Int("intermediate_size", 1, kMaxIntermediate, defaults.intermediate_size);
  config->norm_eps = ReadNormEps(fields, defaults.norm_eps_name, defaults.norm_eps);
  config->tie_embeddings = fields->Bool("tie_word_embeddings", defaults.tie);
  config->max_context =
      fields->Int("max_position_embeddings", 1, kMaxContext, defaults.max_context);
  ReadEndIds(fields, config, defaults.bos_id, defaults.eos_id);
  IgnoreBookkeeping(fields);
  return fields->Int("num_hidden_layers", 1, kMaxLayers, defaults.num_layers);
}

void ReadHeads(JsonFields* fields, const HeadDefaults& defaults, int hidden_size,
               AttentionSpec* attention) {
  const int heads = fields->Int("num_attention_heads", 1, kMaxHeads, defaults.num_heads);
  attention->num_heads = heads;
  attention->num_kv_heads =
      DivisorOfHeads(fields, "num_key_value_heads", heads, defaults.num_kv_heads.value_or(heads));
  attention->head_dim = ReadHeadDim(fields, heads, hidden_size, defaults.head_dim);
}

void OnlySilu(JsonFields* fields, const char* name) {
  const std::string act = fields->String(name, "silu");
  if (act == "silu" || act == "swish") return;
  fields->Fail(name, absl::StrCat("is ", Quoted(act), "; must be silu or swish"));
}

int RotaryDim(JsonFields* fields, double part, int head_dim) {
  const int dim = static_cast<int>(head_dim * part);
  if (dim < 2 || dim % 2 != 0) {
    fields->Fail("partial_rotary_factor",
                 absl::StrCat("is ", part, ", which rotates ", dim, " of a head's ", head_dim,
                              " channels; must be an even number of them"));
  }
  return dim;
}

std::vector<std::string> ReadLayerTypes(JsonFields* fields, int num_layers, const char* older) {
  const Json* list = fields->Get("layer_types");
  if (const Json* other = older != nullptr ? fields->Get(older) : nullptr; other != nullptr) {
    if (list != nullptr && *list != *other) {
      fields->Fail(older, "is not as layer_types; must be the same");
    }
    list = other;
  }
  if (list == nullptr) return {};
  std::vector<std::string> types;
  if (list->is_array()) {
    for (const Json& item : *list) {
      types.push_back(item.is_string() ? item.get<std::string>() : JsonFields::Shown(item));
    }
  }
  if (types.size() != static_cast<size_t>(num_layers)) {
    fields->Fail("layer_types", absl::StrCat("must list the mixers of all ", num_layers,
                                             " layers, has ", types.size()));
    return {};
  }
  return types;
}

std::vector<bool> ReadLayerNumbers(JsonFields* fields, const std::string& name, int num_layers) {
  std::vector<bool> named(num_layers);
  const Json* list = fields->Get(name);
  if (list == nullptr) return named;
  if (!list->is_array()) fields->Fail(name, "must be a list of layer numbers");
  for (const Json& item : *list) {
    int layer;
    if (!JsonFields::ToInt(item, 0, kMaxLayers, &layer)) {
      fields->Fail(name, absl::StrCat("holds ", JsonFields::Shown(item), "; a layer ",
                                      JsonFields::Range(0, kMaxLayers)));
    } else if (layer < num_layers) {
      named[layer] = true;
    }
  }
  return named;
}

void SetLayers(JsonFields* fields, const std::vector<std::string>& types,
               const std::vector<LayerType>& accepted, ModelConfig* config) {
  for (size_t i = 0; i < types.size(); ++i) {
    const auto found = std::find_if(accepted.begin(), accepted.end(),
                                    [&](const LayerType& type) { return type.name == types[i]; });
    if (found == accepted.end()) {
      std::vector<std::string> names;
      for (const LayerType& type : accepted) names.push_back(type.name);
      return fields->Fail("layer_types", absl::StrCat("layer ", i, " is ", Quoted(types[i]),
                                                      "; must be ", OneOf(names)));
    }
    config->AddLayer(found->mixer, found->tensors);
  }
}

void IgnoreBookkeeping(JsonFields* fields) {
  fields->Ignore({"_attn_implementation_autoset", "_commit_hash", "_name_or_path",
                  "attn_implementation", "auto_map", "dtype", "model_name", "name_or_path",
                  "torch_dtype", "transformers_version", "unsloth_fixed", "unsloth_version"});
  ReadArchitectures(fields);
  // Training.
  fields->Ignore({"attention_dropout", "dropout", "hidden_dropout", "initializer_range",
                  "problem_type", "id2label", "label2id", "num_labels", "finetuning_task",
                  "task_specific_params", "pretraining_tp"});
  // How transformers runs a model and what it hands out.
  fields->Ignore({"use_cache", "output_attentions", "output_hidden_states", "output_scores",
                  "return_dict", "return_dict_in_generate", "torchscript", "use_bfloat16",
                  "tf_legacy_loss", "chunk_size_feed_forward", "tokenizer_class", "prefix"});
  // Ids that no request uses.
  fields->Ignore({"pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"});
  // generate(): how tokens are drawn from the logits, which a request says here.
  fields->Ignore({"do_sample",
                  "temperature",
                  "top_k",
                  "top_p",
                  "typical_p",
                  "num_beams",
                  "num_beam_groups",
                  "num_return_sequences",
                  "early_stopping",
                  "diversity_penalty",
                  "length_penalty",
                  "repetition_penalty",
                  "no_repeat_ngram_size",
                  "encoder_no_repeat_ngram_size",
                  "min_p",
                  "max_length",
                  "max_new_tokens",
                  "min_length",
                  "bad_words_ids",
                  "remove_invalid_values",
                  "exponential_decay_length_penalty",
                  "suppress_tokens",
                  "begin_suppress_tokens",
                  "forced_bos_token_id",
                  "forced_eos_token_id"});
  for (const char* name : {"is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder",
                           "attention_bias", "mlp_bias"}) {
    if (!fields->Knows(name)) fields->Only(name, false);
  }
  fields->Only("pruned_heads", Json::object());
  fields->Ignore({"is_decoder", "cross_attention_hidden_size"});
}

std::string OneOf(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : i + 1 == names.size() ? " or " : ", ", names[i]);
  }
  return text;
}

}  // namespace packrat
