// Reads a tokenizer.json.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/text/bpe.h"
#include "models/text/bpe_cuts.h"
#include "models/text/tokenizer_json.h"
#include "models/text/utf8.h"

namespace packrat {
namespace {

constexpr int kMaxId = (1 << 22) - 1;
constexpr size_t kMaxAddedTokens = 1 << 16;
constexpr size_t kMaxAddedBytes = 1024;

// Bytes that occur in valid UTF-8: all except C0, C1 and F5 to FF.
bool OccursInUtf8(int byte) { return byte < 0xc0 || (byte >= 0xc2 && byte <= 0xf4); }

// The byte that an entry like "<0x0A>" means; -1 for any other entry.
int FallbackByte(const std::string& entry) {
  for (int byte = 0; entry.size() == 6 && byte < 256; ++byte) {
    if (entry == absl::StrFormat("<0x%02X>", byte)) return byte;
  }
  return -1;
}

}  // namespace

// Fills a Bpe from the parsed file. Use it once.
class BpeFile : private TokenizerJsonReader {
 public:
  BpeFile(Bpe* out, int vocab_size) : out_(out), vocab_size_(vocab_size) {}

  absl::Status Read(const Json& json, const TokenizerConfig& config) {
    JsonFields fields(json, "");
    Keep(fields);
    // `truncation` and `padding` are for training; a server does not need them.
    if (Ok()) status_ = BpeCuts(out_).Read(json);
    if (Ok()) ReadDecoder(Member(json, "decoder"), "decoder");
    if (Ok()) ReadModel(Member(json, "model"));
    ReadAddedTokens(Member(json, "added_tokens"), config);
    // transformers adds the tokens that the file lacks.
    for (const AddedToken& token : config.added_tokens) {
      if (Ok() && added_contents_.count(token.content) == 0) {
        AddToken("tokenizer_config.json: added_tokens_decoder", token);
      }
    }
    if (Ok()) ReadPostProcessor(Member(json, "post_processor"), "post_processor");
    if (Ok() && out_->bos_id_ < 0) out_->bos_id_ = NamedToken("bos_token", config.bos_token);
    if (Ok()) out_->eos_id_ = NamedToken("eos_token", config.eos_token);
    return status_;
  }

 private:
  // --- The model: vocabulary and merges. ---

  void ReadModel(const Json& json) {
    JsonFields fields(json, "model");
    const std::string type = fields.String("type", "BPE");  // Old files have none.
    if (type != "BPE")
      fields.Fail("type", absl::StrCat("is ", Quoted(type), "; only BPE is supported"));
    if (fields.Number("dropout", 0, 1, 0) != 0) fields.Fail("dropout", "is not supported");
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!fields.String(name, "").empty()) fields.Fail(name, "is not supported");
    }
    byte_fallback_ = fields.Bool("byte_fallback", false);
    if (byte_fallback_ && out_->over_bytes_) {
      fields.Fail("byte_fallback", "is not supported with ByteLevel");
    }
    unknown_ = fields.String("unk_token", "");
    out_->fuse_unknown_ = fields.Bool("fuse_unk", false);
    ignore_merges_ = fields.Bool("ignore_merges", false);
    Keep(fields);
    OnlyKeys(json, "model",
             {"type", "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
              "unk_token", "fuse_unk", "ignore_merges", "vocab", "merges"});
    if (Ok()) ReadVocab(Member(json, "vocab"));
    if (Ok()) ReadMerges(Member(json, "merges"));
  }

  void ReadVocab(const Json& json) {
    out_->byte_ids_.fill(-1);
    if (!json.is_object() || json.empty()) return Fail("model.vocab", "must be an object of ids");
    std::string bytes;
    for (auto item = json.begin(); Ok() && item != json.end(); ++item) {
      int id = 0;
      if (!JsonFields::ToInt(item.value(), 0, kMaxId, &id)) {
        return Fail("model.vocab",
                    absl::StrCat(Quoted(item.key()), " is ", JsonFields::Shown(item.value()), "; ",
                                 JsonFields::Range(0, kMaxId)));
      }
      SetEntry("model.vocab", id, item.key());
      if (!Ok()) return;
      if (!out_->over_bytes_) {
        ReadCharacters(item.key(), id);
      } else if (BytesOfEntry(item.key(), &bytes)) {
        if (bytes.size() == 1) out_->byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
        if (ignore_merges_) out_->words_.emplace(bytes, id);
        out_->entries_[id].bytes = bytes;
      }
    }
    const auto unknown = ids_.find(unknown_);
    if (unknown != ids_.end()) out_->unknown_id_ = unknown->second;
    if (unknown_.empty() || unknown != ids_.end()) return;
    // Old files name a token that does not exist, and never need it.
    for (int byte = 0; Ok() && byte < 256; ++byte) {
      if (OccursInUtf8(byte) && out_->byte_ids_[byte] < 0) {
        Fail("model.unk_token", absl::StrCat(Quoted(unknown_), " is not in model.vocab"));
      }
    }
  }

  // Adds an entry of characters. Its text is what the decoder makes of it.
  void ReadCharacters(const std::string& entry, int id) {
    if (ignore_merges_) out_->words_.emplace(entry, id);
    const auto size = static_cast<size_t>(std::max(0, Utf8Length(entry.data(), entry.size())));
    if (size > 0 && size == entry.size()) {
      uint32_t key = 0;
      for (char c : entry) key = key << 8 | static_cast<unsigned char>(c);
      out_->characters_[key] = id;
    }
    const int byte = FallbackByte(entry);
    if (byte >= 0 && byte_fallback_) out_->byte_ids_[byte] = id;
    out_->entries_[id].bytes = Decoded(entry);
  }

  // Of an entry of characters.
  std::string Decoded(const std::string& entry) const {
    const int byte = decodes_bytes_ ? FallbackByte(entry) : -1;
    return byte >= 0 ? std::string(1, static_cast<char>(byte)) : decoding_.Apply(entry);
  }

  // The text is the entry itself until we know that entries write bytes as characters.
  void SetEntry(const std::string& where, int id, const std::string& entry) {
    if (id >= vocab_size_) {
      return Fail(where, absl::StrCat(Quoted(entry), " has the id ", id,
                                      "; the model's vocab_size is ", vocab_size_));
    }
    if (id >= out_->size()) out_->entries_.resize(id + 1);
    Bpe::Entry& target = out_->entries_[id];
    if (!target.special) {
      return Fail(where,
                  absl::StrCat(Quoted(entry), " has the id ", id, ", which another token has"));
    }
    target.bytes = entry;
    target.special = false;
    ids_.emplace(entry, id);
  }

  void ReadMerges(const Json& json) {
    if (!json.is_array()) return Fail("model.merges", "must be a list of pairs");
    std::string left, right;
    for (size_t i = 0; Ok() && i < json.size(); ++i) {
      const std::string where = absl::StrCat("model.merges[", i, "]");
      if (!ReadPair(json[i], &left, &right)) {
        return Fail(where, "must be \"a b\" or [\"a\", \"b\"]");
      }
      const auto a = ids_.find(left), b = ids_.find(right), both = ids_.find(left + right);
      for (const auto& [found, entry] : {std::pair(a, left), {b, right}, {both, left + right}}) {
        if (found == ids_.end()) return Fail(where, Quoted(entry) + " is not in model.vocab");
      }
      merged_.emplace(both->second, i);
      // If a pair comes twice, the last one counts.
      out_->merges_[Bpe::Pair(a->second, b->second)] = {static_cast<int32_t>(i), both->second};
    }
  }

  static bool ReadPair(const Json& json, std::string* left, std::string* right) {
    if (json.is_array() && json.size() == 2 && json[0].is_string() && json[1].is_string()) {
      *left = json[0].get<std::string>();
      *right = json[1].get<std::string>();
      return true;
    }
    if (!json.is_string()) return false;
    const auto& text = json.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return false;
    *left = text.substr(0, space);
    *right = text.substr(space + 1);
    return true;
  }

  // --- Added tokens. ---

  void ReadAddedTokens(const Json& json, const TokenizerConfig& config) {
    if (!Ok() || json.is_null()) return;
    if (!json.is_array() || json.size() > kMaxAddedTokens) {
      return Fail("added_tokens", absl::StrCat("must be a list of at most ", kMaxAddedTokens));
    }
    absl::flat_hash_map<std::string, const AddedToken*> configured;
    for (const AddedToken& token : config.added_tokens) configured[token.content] = &token;
    for (size_t i = 0; Ok() && i < json.size(); ++i) {
      const std::string where = absl::StrCat("added_tokens[", i, "]");
      JsonFields fields(json[i], where);
      AddedToken token;
      token.id = fields.Int("id", 0, kMaxId);
      token.content = fields.String("content", "");
      if (token.content.empty() || token.content.size() > kMaxAddedBytes) {
        fields.Fail("content", absl::StrCat("must have 1 to ", kMaxAddedBytes, " bytes"));
      }
      token.special = fields.Bool("special", false);
      token.normalized = fields.Bool("normalized", !token.special);
      token.flags = ReadAddedTokenFlags(&fields);
      Keep(fields);
      OnlyKeys(json[i], where,
               {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      if (!added_contents_.insert(token.content).second) {
        Fail(where, Quoted(token.content) + " occurs twice");
      }
      // As in transformers, what tokenizer_config.json says of the token comes after the file.
      if (const auto other = configured.find(token.content); other != configured.end()) {
        token.special |= other->second->special;
        token.normalized = other->second->normalized;
        token.flags = other->second->flags;
      }
      if (Ok()) AddToken(where, token);
    }
  }

  void AddToken(const std::string& where, const AddedToken& token) {
    const int id = token.id;
    const std::string& content = token.content;
    const auto known = ids_.find(content);
    if (known == ids_.end()) {
      SetEntry(where, id, content);
    } else if (known->second != id) {
      Fail(where,
           absl::StrCat(Quoted(content), " has the id ", id, ", in model.vocab ", known->second));
    }
    if (!Ok()) return;
    const std::string found = token.normalized ? out_->normalizer_.Apply(content) : content;
    if (found.empty()) return Fail(where, "nothing is left of it when it is normalized");
    out_->entries_[id].bytes = out_->over_bytes_ ? found : Decoded(found);
    out_->entries_[id].flags = token.flags;
    if (!out_->added_[token.normalized ? 1 : 0].Add(found, id)) {
      return Fail(where, "too many lengths of tokens that begin alike");
    }
    if (!token.special) return;
    out_->entries_[id].special = true;
    out_->words_.erase(content);
    // The unknown token is an exception: text without a token becomes it.
    if (id == out_->unknown_id_) return;
    // Plain text must never become a special token.
    const auto& bytes = out_->byte_ids_;
    const auto& characters = out_->characters_;
    if (std::find(bytes.begin(), bytes.end(), id) != bytes.end() ||
        std::any_of(characters.begin(), characters.end(),
                    [id](const auto& item) { return item.second == id; })) {
      Fail(where, "a special token cannot be a single byte's or character's");
    }
    const auto made = merged_.find(id);
    if (made != merged_.end()) {
      Fail(where,
           absl::StrCat("a special token cannot be made by model.merges[", made->second, "]"));
    }
  }

  // --- Tokens before a text, and decoding. ---

  void ReadPostProcessor(const Json& json, const std::string& where) {
    if (json.is_null() || Is(json, "ByteLevel")) return;  // ByteLevel changes offsets only.
    if (Is(json, "Sequence")) {
      return ReadSequence(json, where, "processors", [this](const Json& item, const auto& name) {
        ReadPostProcessor(item, name);
      });
    }
    if (!Is(json, "TemplateProcessing")) {
      return Fail(where + ".type", absl::StrCat(Type(json), " is not supported; ByteLevel, ",
                                                "TemplateProcessing and Sequence are"));
    }
    const Json& single = Member(json, "single");
    const size_t items = single.is_array() ? single.size() : 0;
    if (items < 1 || items > 2 || !single[items - 1].contains("Sequence") ||
        (items == 2 && !single[0].contains("SpecialToken"))) {
      return Fail(where + ".single", "must be the text, with at most one special token before it");
    }
    if (items == 1) return;
    const Json& name = Member(Member(single[0], "SpecialToken"), "id");
    const Json& token = Member(Member(json, "special_tokens"), name.is_string() ? name : "");
    const Json& ids = Member(token, "ids");
    int id = 0;
    const int last = out_->size() - 1;
    if (!ids.is_array() || ids.size() != 1 || !JsonFields::ToInt(ids[0], 0, last, &id) ||
        !out_->entries_[id].special || out_->entries_[id].bytes.empty()) {
      return Fail(where + ".special_tokens", "must give the token before the text its id");
    }
    if (out_->adds_bos_) return Fail(where, "a second token before the text is not supported");
    out_->bos_id_ = id;
    out_->adds_bos_ = true;
  }

  // A model of bytes needs ByteLevel only, alone or as a sequence of one. A model of characters has
  // some of Replace, ByteFallback, Fuse and Strip, in this order.
  void ReadDecoder(const Json& json, const std::string& where) {
    if (out_->over_bytes_) {
      const Json& items = Member(json, "decoders");
      if (Is(json, "Sequence") && items.is_array() && items.size() == 1) {
        return ReadSequence(json, where, "decoders",
                            [&](const Json& item, const auto& name) { ReadDecoder(item, name); });
      }
      if (!Is(json, "ByteLevel")) {
        Fail(where + ".type", absl::StrCat(Type(json), " is not supported; only ByteLevel, ",
                                           "or a Sequence of it alone, is"));
      }
      return;
    }
    if (!Is(json, "Sequence")) {
      return Fail(where + ".type",
                  absl::StrCat(Type(json), " is not supported; without a ByteLevel pre-tokenizer, ",
                               "only Sequence is"));
    }
    int done = 0;
    ReadSequence(json, where, "decoders", [&](const Json& item, const std::string& name) {
      const int now = Is(item, "Replace")        ? 1
                      : Is(item, "ByteFallback") ? 2
                      : Is(item, "Fuse")         ? 3
                      : Is(item, "Strip")        ? 4
                                                 : 0;
      // Without Fuse, every token would be stripped.
      if (now < done || (now == 4 && done != 3)) {
        return Fail(name + ".type",
                    absl::StrCat(Type(item), " is not supported here; Replace, ",
                                 "ByteFallback, Fuse and Strip are, in this order"));
      }
      done = now;
      if (now == 1) ReadReplace(item, name, &decoding_);
      if (now == 2) decodes_bytes_ = true;
      if (now == 4) ReadStrip(item, name);
    });
    if (Ok() && done < 3) Fail(where, "has no Fuse");
  }

  void ReadStrip(const Json& json, const std::string& where) {
    OnlyKeys(json, where, {"type", "content", "start", "stop"});
    JsonFields fields(json, where);
    const int start = fields.Int("start", 0, 1);
    if (fields.String("content", "") != " " || fields.Int("stop", 0, 1) != 0) {
      fields.Fail("", "only a space at the start can be stripped");
    }
    Keep(fields);
    out_->strips_space_ = start == 1;
  }

  // The id of a token that tokenizer_config.json names; -1 if it names none.
  int NamedToken(const std::string& field, const std::string& name) {
    if (name.empty()) return -1;
    const auto found = ids_.find(name);
    if (found != ids_.end()) return found->second;
    Fail(field, absl::StrCat(Quoted(name), " of tokenizer_config.json is not a token"));
    return -1;
  }

  Bpe* const out_;
  const int vocab_size_;
  absl::flat_hash_map<std::string, int32_t> ids_;  // By the entry as the file writes it.
  absl::flat_hash_map<int32_t, size_t> merged_;  // Ids that merges make, with the first such merge.
  std::set<std::string> added_contents_;
  bool ignore_merges_ = false, byte_fallback_ = false;
  std::string unknown_;
  bool decodes_bytes_ = false;
  TextNormalizer decoding_;  // Turns an entry into its text.
};

absl::StatusOr<std::unique_ptr<TokenizerVocabulary>> Bpe::Load(const Json& json,
                                                               const std::string& path,
                                                               const TokenizerConfig& config,
                                                               int vocab_size) {
  auto made = std::make_unique<Bpe>();
  const absl::Status status = BpeFile(made.get(), vocab_size).Read(json, config);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));
  }
  return made;
}

}  // namespace packrat
