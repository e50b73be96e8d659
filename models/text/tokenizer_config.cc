#include "models/text/tokenizer_config.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/files/file.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"

namespace packrat {
namespace {

constexpr size_t kMaxBytes = 16 << 20;
constexpr int kMaxId = (1 << 22) - 1;
constexpr size_t kMaxAddedTokens = 1 << 16;
constexpr size_t kMaxAddedBytes = 1024;
constexpr char kChatTemplates[] =
    "tokenizer_config.json: chat_template must be a string, or a list of objects with a name and a "
    "template";

// The tokens that transformers' classes have where no file names them.
struct ClassTokens {
  const char* name;
  std::pair<const char*, const char*> tokens[4];
};
constexpr ClassTokens LlamaTokens(const char* name) {
  return {name, {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}, {}}};
}
constexpr ClassTokens QwenTokens(const char* name) {
  return {name,
          {{"eos_token", "<|endoftext|>"},
           {"unk_token", "<|endoftext|>"},
           {"pad_token", "<|endoftext|>"},
           {}}};
}
constexpr ClassTokens kClassTokens[] = {
    LlamaTokens("LlamaTokenizer"),
    LlamaTokens("CodeLlamaTokenizer"),
    QwenTokens("Qwen2Tokenizer"),
    QwenTokens("Qwen3_5Tokenizer"),
    {"GPT2Tokenizer",
     {{"bos_token", "<|endoftext|>"},
      {"eos_token", "<|endoftext|>"},
      {"unk_token", "<|endoftext|>"},
      {}}},
    {"GPTNeoXTokenizer",
     {{"bos_token", "<|endoftext|>"},
      {"eos_token", "<|endoftext|>"},
      {"unk_token", "<|endoftext|>"},
      {"pad_token", "<|padding|>"}}},
    {"GemmaTokenizer",
     {{"bos_token", "<bos>"},
      {"eos_token", "<eos>"},
      {"unk_token", "<unk>"},
      {"pad_token", "<pad>"}}},
};

// "<s>", or the object that older files write: {"content": "<s>", ...}. Empty if it is neither.
std::string NameIn(const Json& value) {
  const Json* name = &value;
  if (value.is_object() && value.contains("content")) name = &value["content"];
  return name->is_string() ? name->get<std::string>() : "";
}

std::string TokenName(JsonFields* fields, const std::string& name) {
  const Json* value = fields->Get(name);
  if (value == nullptr) return "";
  const std::string token = NameIn(*value);
  if (token.empty() && !(value->is_string())) fields->Fail(name, "must be a token's name");
  return token;
}

// Adds the names that a file gives to special tokens.
void CollectSpecial(const Json& json, std::set<std::string>* names) {
  if (!json.is_object()) return;
  for (const char* field : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token",
                            "cls_token", "mask_token"}) {
    if (json.contains(field)) names->insert(NameIn(json[field]));
  }
  for (const char* field : {"additional_special_tokens", "extra_special_tokens"}) {
    if (!json.contains(field) || !json[field].is_array()) continue;
    for (const Json& item : json[field]) names->insert(NameIn(item));
  }
}

// Reads the files into a TokenizerConfig. Use it once. status_ keeps the first error.
class Reader {
 public:
  explicit Reader(const std::string& dir) : dir_(dir) {}

  absl::StatusOr<TokenizerConfig> Read(const Json& listing) {
    const Json config = File("tokenizer_config.json");
    CollectSpecial(config, &special_);
    const Json map = File("special_tokens_map.json");
    CollectSpecial(map, &special_);
    if (!config.is_null()) ReadConfig(config);
    // As transformers does: the older file counts, and counts first, where the newer one does not
    // list the added tokens.
    const bool is_old = !config.is_object() || !config.contains("added_tokens_decoder");
    if (is_old) NameTokens(map);
    NameTokens(config);
    NameTokensOfClass(config, is_old ? map : Json());
    if (config.is_object() && config.contains("chat_template")) ReadChat(config["chat_template"]);
    const Json added = File("added_tokens.json");
    if (status_.ok() && !added.is_null()) ReadAdded(added);
    if (is_old) ReadListed(listing);
    if (!status_.ok()) return status_;
    for (const auto& [id, token] : tokens_) config_.added_tokens.push_back(token);
    return config_;
  }

 private:
  // Null if there is no such file.
  Json File(const std::string& name) {
    const std::string path = dir_ + "/" + name;
    const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxBytes);
    if (absl::IsNotFound(text.status()) || !status_.ok()) return Json();
    absl::StatusOr<Json> json =
        text.ok() ? ParseJson(text->data(), text->size(), path) : text.status();
    if (json.ok() && !json->is_object()) {
      json = absl::InvalidArgumentError(absl::StrCat(path, ": must be an object"));
    }
    if (json.ok()) return *std::move(json);
    status_ = json.status();
    return Json();
  }

  void Keep(const std::string& file, const JsonFields& fields) {
    if (!status_.ok() || fields.status().ok()) return;
    status_ =
        absl::InvalidArgumentError(absl::StrCat(dir_, "/", file, ": ", fields.status().message()));
  }

  void ReadConfig(const Json& json) {
    constexpr char kFile[] = "tokenizer_config.json";
    JsonFields fields(json, "");
    if (fields.Get("add_bos_token") != nullptr) {
      config_.add_bos = fields.Bool("add_bos_token", false);
    }
    if (fields.Bool("add_eos_token", false)) {
      fields.Fail("add_eos_token",
                  "true is not supported: nothing continues a text that has ended");
    }
    config_.legacy = fields.Bool("legacy", true);
    config_.add_prefix_space = fields.Bool("add_prefix_space", true);
    config_.bos_token = TokenName(&fields, "bos_token");
    config_.eos_token = TokenName(&fields, "eos_token");
    const Json* decoder = fields.Get("added_tokens_decoder");
    if (decoder != nullptr && !decoder->is_object()) {
      fields.Fail("added_tokens_decoder", "must be an object of ids and tokens");
    }
    Keep(kFile, fields);
    for (auto item = decoder == nullptr ? json.end() : decoder->begin();
         status_.ok() && decoder != nullptr && item != decoder->end(); ++item) {
      JsonFields token(item.value(), absl::StrCat("added_tokens_decoder.", item.key()));
      int id = -1;
      if (!absl::SimpleAtoi(item.key(), &id)) id = -1;
      Add(ReadToken(id, &token), &token);
      Keep(kFile, token);
    }
  }

  AddedToken ReadToken(int id, JsonFields* token) const {
    AddedToken read;
    read.id = id;
    read.content = token->String("content", "");
    read.special = token->Bool("special", false) || special_.count(read.content) > 0;
    read.normalized = token->Bool("normalized", !read.special);
    read.flags = ReadAddedTokenFlags(token);
    return read;
  }

  // {"added_tokens": [{"id": 32000, "content": "<|im_start|>", ..}, ..], ..}
  void ReadListed(const Json& json) {
    const Json list = json.is_object() ? json.value("added_tokens", Json()) : Json();
    for (size_t i = 0; status_.ok() && list.is_array() && i < list.size(); ++i) {
      JsonFields token(list[i], absl::StrCat("added_tokens[", i, "]"));
      AddedToken read = ReadToken(token.Int("id", 0, kMaxId), &token);
      const auto known = tokens_.find(read.id);
      if (known == tokens_.end() || known->second.content != read.content) {
        Add(std::move(read), &token);
      }
      Keep("tokenizer.json", token);
    }
  }

  // "bos_token" and the like, unless another file has named them. In newer files an object has
  // further ones, such as "image_token".
  void NameTokens(const Json& json) {
    if (!json.is_object()) return;
    const auto add = [this](const std::string& field, const Json& value) {
      const std::string name = NameIn(value);
      auto& names = config_.token_names;
      const bool known = std::any_of(names.begin(), names.end(),
                                     [&](const auto& named) { return named.first == field; });
      if (!name.empty() && !known) names.emplace_back(field, name);
    };
    for (const auto& [field, value] : json.items()) {
      if (absl::EndsWith(field, "_token")) add(field, value);
    }
    const Json extra = json.value("extra_special_tokens", Json());
    if (extra.is_object()) {
      for (const auto& [field, value] : extra.items()) add(field, value);
    }
    const Json additional = json.value("additional_special_tokens", Json());
    if (!additional.is_array() || !config_.additional_special_tokens.empty()) return;
    for (const Json& item : additional) {
      config_.additional_special_tokens.push_back(NameIn(item));
    }
  }

  // What its class has of tokens that no file names, not even as null.
  void NameTokensOfClass(const Json& config, const Json& map) {
    const Json type = config.is_object() ? config.value("tokenizer_class", Json()) : Json();
    if (!type.is_string()) return;
    const std::string name(absl::StripSuffix(type.get_ref<const std::string&>(), "Fast"));
    for (const ClassTokens& known : kClassTokens) {
      if (name != known.name) continue;
      for (const auto& [field, token] : known.tokens) {
        if (token == nullptr || config.contains(field)) continue;
        if (map.is_object() && map.contains(field)) continue;
        config_.token_names.emplace_back(field, token);
      }
    }
  }

  // Nothing of this keeps a model from being served without chat.
  void ReadChat(const Json& chat) {
    if (chat.is_null()) return;
    if (chat.is_string()) {
      config_.chat_templates.emplace_back("default", chat.get<std::string>());
      return;
    }
    if (!chat.is_array()) config_.chat_template_error = kChatTemplates;
    for (const Json& item : chat) {
      if (item.is_object() && item.value("name", Json()).is_string() &&
          item.value("template", Json()).is_string()) {
        config_.chat_templates.emplace_back(item["name"].get<std::string>(),
                                            item["template"].get<std::string>());
      } else {
        config_.chat_template_error = kChatTemplates;
      }
    }
  }

  // {"<|im_start|>": 32000}
  void ReadAdded(const Json& json) {
    JsonFields fields(json, "");
    for (auto item = json.begin(); item != json.end() && fields.status().ok(); ++item) {
      int id = -1;
      if (!JsonFields::ToInt(item.value(), 0, kMaxId, &id)) id = -1;
      const auto known = tokens_.find(id);
      if (known != tokens_.end() && known->second.content == item.key()) continue;
      const bool special = special_.count(item.key()) > 0;
      Add({id, item.key(), special, !special, {}}, &fields);
    }
    Keep("added_tokens.json", fields);
  }

  void Add(AddedToken token, JsonFields* fields) {
    const auto& [id, content, special, normalized, flags] = token;
    if (content.empty() || content.size() > kMaxAddedBytes) {
      fields->Fail("", absl::StrCat("a token must have 1 to ", kMaxAddedBytes, " bytes"));
    } else if (id < 0 || id > kMaxId) {
      fields->Fail("",
                   absl::StrCat("the id of ", Quoted(content), " ", JsonFields::Range(0, kMaxId)));
    } else if (tokens_.size() == kMaxAddedTokens) {
      fields->Fail("", absl::StrCat("more than ", kMaxAddedTokens, " added tokens"));
    } else if (tokens_.count(id) > 0 || !contents_.insert(content).second) {
      fields->Fail("", absl::StrCat(Quoted(content), " and its id ", id, " are there twice"));
    } else {
      tokens_[id] = std::move(token);
    }
  }

  const std::string dir_;
  absl::Status status_;
  TokenizerConfig config_;
  std::set<std::string> special_;
  std::map<int, AddedToken> tokens_;
  std::set<std::string> contents_;
};

}  // namespace

AddedTokenFlags ReadAddedTokenFlags(JsonFields* fields) {
  AddedTokenFlags flags;
  flags.left_strip = fields->Bool("lstrip", false);
  flags.right_strip = fields->Bool("rstrip", false);
  flags.single_word = fields->Bool("single_word", false);
  return flags;
}

absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& dir, const Json& listing) {
  return Reader(dir).Read(listing);
}

}  // namespace packrat
