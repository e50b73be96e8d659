#include "models/tools/gguf_tokenizer.h"

#include <vector>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

// Kinds of tokens, as files number them.
constexpr double kControl = 3, kUserDefined = 4;

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

// How words are cut, which files tell by a name alone; null for one that is not known.
Json PreTokenizer(const std::string& name) {
  if (name == "gpt-2") return ByteLevel(true);
  if (name == "smollm") {
    return Sequence({{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true));
  }
  if (name == "llama-bpe" || name == "llama3") {
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
  return {};
}

}  // namespace

absl::StatusOr<GgufTokenizer> TokenizerOfGguf(const GgufHeader& header, const std::string& file) {
  const auto find = [&](const std::string& key) -> const GgufValue* {
    const auto found = header.metadata.find("tokenizer." + key);
    return found == header.metadata.end() ? nullptr : &found->second;
  };
  const auto invalid = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": tokenizer.ggml.", why));
  };
  const GgufValue* model = find("ggml.model");
  if (model == nullptr || model->text == "none") return GgufTokenizer{};
  if (model->text != "gpt2") {
    return invalid(absl::StrCat("model is ", Quoted(model->text), "; only gpt2 is read"));
  }
  const GgufValue* pre = find("ggml.pre");
  const std::string name = pre == nullptr ? "gpt-2" : pre->text;
  const Json cut = PreTokenizer(name);
  if (cut.is_null()) {
    return invalid(
        absl::StrCat("pre is ", Quoted(name), "; one of: gpt-2, smollm, llama-bpe, llama3, qwen2"));
  }
  const GgufValue *tokens = find("ggml.tokens"), *types = find("ggml.token_type"),
                  *merges = find("ggml.merges");
  if (tokens == nullptr || merges == nullptr || tokens->texts.empty()) {
    return invalid("tokens or merges are missing");
  }
  if (types != nullptr && types->numbers.size() != tokens->texts.size()) {
    return invalid(absl::StrCat("token_type has ", types->numbers.size(), " entries, tokens ",
                                tokens->texts.size()));
  }
  Json vocab = Json::object(), added = Json::array();
  for (size_t i = 0; i < tokens->texts.size(); ++i) {
    const std::string& text = tokens->texts[i];
    const double kind = types == nullptr ? 1 : types->numbers[i];
    if (!vocab.emplace(text, i).second) {
      return invalid(absl::StrCat("tokens has ", Quoted(text), " twice"));
    }
    if (kind != kControl && kind != kUserDefined) continue;
    added.push_back({{"id", i},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", kind == kControl}});
  }
  GgufTokenizer tokenizer;
  tokenizer.json = {{"version", "1.0"},
                    {"truncation", nullptr},
                    {"padding", nullptr},
                    {"added_tokens", added},
                    {"normalizer", nullptr},
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
                      {"ignore_merges", name == "llama-bpe" || name == "llama3"},
                      {"vocab", vocab},
                      {"merges", merges->texts}}}};
  tokenizer.config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  for (const char* end : {"bos", "eos"}) {
    const GgufValue* id = find(absl::StrCat("ggml.", end, "_token_id"));
    if (id == nullptr) continue;
    if (id->integer < 0 || id->integer >= static_cast<int64_t>(tokens->texts.size())) {
      return invalid(absl::StrCat(end, "_token_id is ", id->integer, ", which no token has"));
    }
    tokenizer.config[absl::StrCat(end, "_token")] = tokens->texts[id->integer];
  }
  const GgufValue* add_bos = find("ggml.add_bos_token");
  tokenizer.config["add_bos_token"] = add_bos != nullptr && add_bos->integer != 0;
  if (const GgufValue* chat = find("chat_template"); chat != nullptr) {
    tokenizer.config["chat_template"] = chat->text;
  }
  return tokenizer;
}

}  // namespace packrat
