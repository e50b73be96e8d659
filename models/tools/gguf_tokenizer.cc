#include "models/tools/gguf_tokenizer.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/tools/gguf_fields.h"
#include "models/tools/sentencepiece_model.h"

namespace packrat {
namespace {

using Kind = GgufValue::Kind;

// Kinds of tokens, as files number them and as SentencePiece does.
constexpr double kUnknown = 2, kControl = 3, kUserDefined = 4;

Json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json Sequence(const Json& first, const Json& second) {
  return {{"type", "Sequence"}, {"pretokenizers", {first, second}}};
}

Json SplitAt(const char* pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

// Words of Llama 3 that are tokens are not put together by merges.
bool IgnoresMerges(const std::string& pre) {
  return pre == "llama-bpe" || pre == "llama3" || pre == "falcon-h1" || pre == "lfm2";
}

// How words are cut, which files tell by a name alone; null for one that is not known.
Json PreTokenizer(const std::string& name) {
  if (name == "gpt-2") return ByteLevel(true);
  if (name == "smollm" || name == "refact") {
    return Sequence({{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true));
  }
  if (IgnoresMerges(name) || name == "dbrx") {
    return Sequence(
        SplitAt("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
        ByteLevel(false));
  }
  if (name == "qwen2") {
    return Sequence(SplitAt("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                            " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
                    ByteLevel(false));
  }
  if (name == "qwen35") {
    return Sequence(
        SplitAt("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
                " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"),
        ByteLevel(false));
  }
  return {};
}

// One file's tokenizer.
class Reader {
 public:
  Reader(const GgufHeader& header, const std::string& file) : file_(file), fields_(header, file) {}

  absl::StatusOr<GgufTokenizer> Read();

 private:
  // A value of a wrong kind, of which the fields complain, is missing for who reads it.
  absl::Status Invalid(const std::string& why) const {
    if (!fields_.status().ok()) return fields_.status();
    return absl::InvalidArgumentError(absl::StrCat(file_, ": tokenizer.ggml.", why));
  }
  // Of a special token, into `id`; -1 where the file names none.
  absl::Status Id(const std::string& name, int* id);
  Json ChatTemplates();
  absl::Status FitsTokens(const char* list, const std::vector<double>& values) const;
  absl::Status BytePairs(Json* json);
  absl::Status SentencePieces(bool unigram, std::string* model);

  const std::string& file_;
  GgufFields fields_;
  const std::vector<std::string>* tokens_ = nullptr;
  std::vector<double> types_;  // (tokens)
};

absl::Status Reader::Id(const std::string& name, int* id) {
  const GgufValue* value =
      fields_.Find(absl::StrCat("tokenizer.ggml.", name, "_token_id"), Kind::kInteger);
  *id = -1;
  if (value == nullptr) return fields_.status();
  if (value->integer < 0 || value->integer >= static_cast<int64_t>(tokens_->size())) {
    return Invalid(absl::StrCat(name, "_token_id is ", value->integer, ", which no token has"));
  }
  *id = static_cast<int>(value->integer);
  return absl::OkStatus();
}

absl::Status Reader::FitsTokens(const char* list, const std::vector<double>& values) const {
  if (values.size() == tokens_->size()) return absl::OkStatus();
  return Invalid(absl::StrCat(list, " has ", values.size(), " entries, tokens ", tokens_->size()));
}

absl::Status Reader::BytePairs(Json* json) {
  const std::string name = fields_.Text("tokenizer.ggml.pre", "gpt-2");
  const Json cut = PreTokenizer(name);
  if (cut.is_null()) {
    return Invalid(absl::StrCat("pre is ", Quoted(name),
                                "; one of: dbrx, falcon-h1, gpt-2, lfm2, llama-bpe, llama3, qwen2, "
                                "qwen35, refact, smollm"));
  }
  const GgufValue* merges = fields_.Find("tokenizer.ggml.merges", Kind::kStrings);
  if (merges == nullptr) return Invalid("merges are missing");
  Json vocab = Json::object(), added = Json::array();
  for (size_t i = 0; i < tokens_->size(); ++i) {
    const std::string& text = (*tokens_)[i];
    if (!vocab.emplace(text, i).second) {
      return Invalid(absl::StrCat("tokens has ", Quoted(text), " twice"));
    }
    if (types_[i] != kControl && types_[i] != kUserDefined) continue;
    added.push_back({{"id", i},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", types_[i] == kControl}});
  }
  // Qwen's tokenizers compose characters before all else, which files do not tell.
  const Json normalizer = name == "qwen2" || name == "qwen35" ? Json{{"type", "NFC"}} : Json();
  *json = {{"version", "1.0"},
           {"truncation", nullptr},
           {"padding", nullptr},
           {"added_tokens", added},
           {"normalizer", normalizer},
           {"pre_tokenizer", cut},
           {"post_processor", nullptr},
           {"decoder", ByteLevel(true)},
           {"model",
            {{"type", "BPE"},
             {"dropout", nullptr},
             {"unk_token", nullptr},
             {"continuing_subword_prefix", nullptr},
             {"end_of_word_suffix", nullptr},
             {"fuse_unk", false},
             {"byte_fallback", false},
             {"ignore_merges", IgnoresMerges(name)},
             {"vocab", vocab},
             {"merges", merges->texts}}}};
  return absl::OkStatus();
}

absl::Status Reader::SentencePieces(bool unigram, std::string* model) {
  const GgufValue* scores = fields_.Find("tokenizer.ggml.scores", Kind::kNumbers);
  if (scores == nullptr || fields_.Find("tokenizer.ggml.token_type", Kind::kNumbers) == nullptr) {
    return Invalid("scores or token_type are missing");
  }
  if (absl::Status status = FitsTokens("scores", scores->numbers); !status.ok()) return status;
  SentencePieceParts parts;
  parts.unigram = unigram;
  for (size_t i = 0; i < tokens_->size(); ++i) {
    const double type = types_[i];
    if (!(type >= 1 && type <= 6) || type != static_cast<int>(type)) {
      return Invalid(absl::StrCat("token_type of token ", i, " is ", type, "; must be 1 to 6"));
    }
    parts.pieces.push_back({(*tokens_)[i], static_cast<float>(scores->numbers[i]),
                            static_cast<PieceType>(static_cast<int>(type))});
    if (type == kUnknown && parts.unknown < 0) parts.unknown = static_cast<int>(i);
  }
  if (parts.unknown < 0) return Invalid("token_type has no unknown token (2)");
  absl::Status status = Id("bos", &parts.bos);
  if (status.ok()) status = Id("eos", &parts.eos);
  if (!status.ok()) return status;
  parts.add_dummy_prefix = fields_.Bool("tokenizer.ggml.add_space_prefix", true);
  parts.remove_extra_spaces = fields_.Bool("tokenizer.ggml.remove_extra_whitespaces", unigram);
  const GgufValue* map = fields_.Find("tokenizer.ggml.precompiled_charsmap", Kind::kNumbers);
  if (map != nullptr) {
    for (const double byte : map->numbers) {
      if (!(byte >= -128 && byte <= 255)) {
        return Invalid(absl::StrCat("precompiled_charsmap holds ", byte, ", which is no byte"));
      }
      parts.character_map += static_cast<char>(static_cast<int>(byte));
    }
  }
  *model = SerializeSentencePieces(parts);
  return absl::OkStatus();
}

// As tokenizer_config.json has them: the only one, or a list with names.
Json Reader::ChatTemplates() {
  constexpr absl::string_view kKey = "tokenizer.chat_template";
  const std::string first = fields_.Text(std::string(kKey), "");
  Json list = Json::array();
  if (!first.empty()) list.push_back({{"name", "default"}, {"template", first}});
  for (const auto& [key, value] : fields_.header().metadata) {
    absl::string_view name = key;
    if (!absl::ConsumePrefix(&name, kKey) || !absl::ConsumePrefix(&name, ".")) continue;
    list.push_back({{"name", std::string(name)}, {"template", fields_.Text(key, "")}});
  }
  return list.size() == 1 && !first.empty() ? Json(first) : list;
}

absl::StatusOr<GgufTokenizer> Reader::Read() {
  const std::string model = fields_.Text("tokenizer.ggml.model", "none");
  GgufTokenizer tokenizer;
  if (!fields_.status().ok()) return fields_.status();
  if (model == "none") return tokenizer;
  const bool pairs = model == "gpt2", unigram = model == "t5";
  if (!pairs && !unigram && model != "llama") {
    return Invalid(absl::StrCat("model is ", Quoted(model), "; gpt2, llama and t5 are read"));
  }
  const GgufValue* tokens = fields_.Find("tokenizer.ggml.tokens", Kind::kStrings);
  const GgufValue* types = fields_.Find("tokenizer.ggml.token_type", Kind::kNumbers);
  if (tokens == nullptr || tokens->texts.empty()) return Invalid("tokens are missing");
  tokens_ = &tokens->texts;
  types_ = types == nullptr ? std::vector<double>(tokens_->size(), 1) : types->numbers;
  if (absl::Status status = FitsTokens("token_type", types_); !status.ok()) return status;
  absl::Status status =
      pairs ? BytePairs(&tokenizer.json) : SentencePieces(unigram, &tokenizer.sentence_pieces);
  if (!status.ok()) return status;
  tokenizer.config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  for (const char* end : {"bos", "eos"}) {
    int id = -1;
    if (status = Id(end, &id); !status.ok()) return status;
    if (id >= 0) tokenizer.config[absl::StrCat(end, "_token")] = (*tokens_)[id];
  }
  for (const char* end : {"eos", "eot", "eom"}) {
    int id = -1;
    if (status = Id(end, &id); !status.ok()) return status;
    const bool known = std::count(tokenizer.ends.begin(), tokenizer.ends.end(), Json(id)) > 0;
    if (id >= 0 && !known) tokenizer.ends.push_back(id);
  }
  // Where a file does not say: as those that run such files take it.
  const bool usual =
      model == "llama" || (pairs && tokenizer.config.contains("bos_token") &&
                           IgnoresMerges(fields_.Text("tokenizer.ggml.pre", "gpt-2")));
  tokenizer.config["add_bos_token"] = fields_.Bool("tokenizer.ggml.add_bos_token", usual);
  if (Json chat = ChatTemplates(); !chat.empty()) tokenizer.config["chat_template"] = chat;
  if (!fields_.status().ok()) return fields_.status();
  return tokenizer;
}

}  // namespace

absl::StatusOr<GgufTokenizer> TokenizerOfGguf(const GgufHeader& header, const std::string& file) {
  return Reader(header, file).Read();
}

}  // namespace packrat
