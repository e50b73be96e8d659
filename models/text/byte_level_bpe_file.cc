// Reads a tokenizer.json. It may come from anywhere: whatever is not known to be meant is refused.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"
#include "models/text/byte_level_bpe.h"

namespace packrat {
namespace {

constexpr int kMaxId = (1 << 22) - 1;
constexpr size_t kMaxAddedTokens = 1 << 16;
constexpr size_t kMaxAddedBytes = 1024;
constexpr size_t kMaxSteps = 16;
// What `use_regex` stands for.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Bytes that valid UTF-8 has: all but C0, C1 and F5 to FF.
bool OccursInUtf8(int byte) { return byte < 0xc0 || (byte >= 0xc2 && byte <= 0xf4); }

}  // namespace

// One use: fills a ByteLevelBpe from the parsed file. The first error stays in status_.
class ByteLevelBpeFile {
 public:
  ByteLevelBpeFile(ByteLevelBpe* out, int vocab_size) : out_(out), vocab_size_(vocab_size) {}

  absl::Status Read(const Json& json, const TokenizerConfig& config) {
    JsonFields fields(json, "");
    Keep(fields);
    // `truncation` and `padding` shape batches of a trainer; a server has no use for them.
    if (fields.Get("normalizer") != nullptr) {
      Fail("normalizer",
           absl::StrCat("type ", Type(json["normalizer"]), " is not supported; only null is"));
    }
    ReadModel(Member(json, "model"));
    ReadAddedTokens(Member(json, "added_tokens"));
    if (Ok()) ReadPreTokenizer(Member(json, "pre_tokenizer"), "pre_tokenizer");
    if (Ok() && !byte_level_) Fail("pre_tokenizer", "has no ByteLevel, which must come last");
    if (Ok()) ReadPostProcessor(Member(json, "post_processor"), "post_processor");
    if (Ok()) ReadDecoder(Member(json, "decoder"));
    if (Ok() && out_->bos_id_ < 0) out_->bos_id_ = NamedToken("bos_token", config.bos_token);
    if (Ok()) out_->eos_id_ = NamedToken("eos_token", config.eos_token);
    return status_;
  }

 private:
  bool Ok() const { return status_.ok(); }
  void Fail(const std::string& field, const std::string& why) {
    if (Ok()) status_ = absl::InvalidArgumentError(absl::StrCat(field, ": ", why));
  }
  void Keep(const JsonFields& fields) {
    if (Ok()) status_ = fields.status();
  }
  static const Json& Member(const Json& json, const std::string& name) {
    static const Json null;
    const auto found = json.is_object() ? json.find(name) : json.end();
    return json.is_object() && found != json.end() ? *found : null;
  }
  static std::string Type(const Json& json) {
    const Json& type = Member(json, "type");
    return type.is_string() ? Quoted(type.get<std::string>()) : "(none)";
  }
  bool Is(const Json& json, const char* type) const {
    const Json& found = Member(json, "type");
    return found.is_string() && found.get_ref<const std::string&>() == type;
  }
  void OnlyKeys(const Json& json, const std::string& where, const std::set<std::string>& known) {
    for (auto item = json.begin(); Ok() && json.is_object() && item != json.end(); ++item) {
      if (known.count(item.key()) == 0) {
        Fail(where, absl::StrCat("has the unknown field ", Quoted(item.key())));
      }
    }
  }

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
    if (fields.Bool("byte_fallback", false)) fields.Fail("byte_fallback", "is not supported");
    // Every byte has a token, so that nothing is ever unknown.
    fields.String("unk_token", "");
    fields.Bool("fuse_unk", false);
    ignore_merges_ = fields.Bool("ignore_merges", false);
    Keep(fields);
    OnlyKeys(json, "model",
             {"type", "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
              "unk_token", "fuse_unk", "ignore_merges", "vocab", "merges"});
    if (Ok()) ReadVocab(Member(json, "vocab"));
    if (Ok()) ReadMerges(Member(json, "merges"));
  }

  void ReadVocab(const Json& json) {
    if (!json.is_object() || json.empty()) return Fail("model.vocab", "must be an object of ids");
    out_->byte_ids_.fill(-1);
    std::string bytes;
    for (auto item = json.begin(); Ok() && item != json.end(); ++item) {
      int id = 0;
      if (!JsonFields::ToInt(item.value(), 0, kMaxId, &id)) {
        return Fail("model.vocab",
                    absl::StrCat(Quoted(item.key()), " is ", JsonFields::Shown(item.value()), "; ",
                                 JsonFields::Range(0, kMaxId)));
      }
      SetEntry("model.vocab", id, item.key());
      if (BytesOfEntry(item.key(), &bytes)) {
        if (bytes.size() == 1) out_->byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
        if (ignore_merges_) out_->words_.emplace(bytes, id);
        if (Ok()) out_->entries_[id].bytes = bytes;
      }
    }
    for (int byte = 0; Ok() && byte < 256; ++byte) {
      if (OccursInUtf8(byte) && out_->byte_ids_[byte] < 0) {
        Fail("model.vocab", absl::StrCat("has no token for the byte ", byte));
      }
    }
  }

  // The text is the entry itself until it is known to be written in the bytes' characters.
  void SetEntry(const std::string& where, int id, const std::string& entry) {
    if (id >= vocab_size_) {
      return Fail(where, absl::StrCat(Quoted(entry), " has the id ", id,
                                      "; the model's vocab_size is ", vocab_size_));
    }
    if (id >= out_->size()) out_->entries_.resize(id + 1);
    ByteLevelBpe::Entry& target = out_->entries_[id];
    if (!target.special) {
      return Fail(where, absl::StrCat(Quoted(entry), " has the id ", id, ", as has another token"));
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
      // Of equal pairs the last counts.
      out_->merges_[ByteLevelBpe::Pair(a->second, b->second)] = {static_cast<int32_t>(i),
                                                                 both->second};
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

  void ReadAddedTokens(const Json& json) {
    if (!Ok() || json.is_null()) return;
    if (!json.is_array() || json.size() > kMaxAddedTokens) {
      return Fail("added_tokens", absl::StrCat("must be a list of at most ", kMaxAddedTokens));
    }
    std::set<std::string> seen;
    for (size_t i = 0; Ok() && i < json.size(); ++i) {
      const std::string where = absl::StrCat("added_tokens[", i, "]");
      JsonFields fields(json[i], where);
      const int id = fields.Int("id", 0, kMaxId);
      const std::string content = fields.String("content", "");
      if (content.empty() || content.size() > kMaxAddedBytes) {
        fields.Fail("content", absl::StrCat("must have 1 to ", kMaxAddedBytes, " bytes"));
      }
      for (const char* name : {"single_word", "lstrip", "rstrip"}) {
        if (fields.Bool(name, false)) fields.Fail(name, "true is not supported");
      }
      const bool special = fields.Bool("special", false);
      const bool normalized = fields.Bool("normalized", !special);
      Keep(fields);
      OnlyKeys(json[i], where,
               {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      if (!seen.insert(content).second) Fail(where, Quoted(content) + " is there twice");
      if (Ok()) AddToken(where, id, content, special, normalized);
    }
  }

  void AddToken(const std::string& where, int id, const std::string& content, bool special,
                bool normalized) {
    const auto known = ids_.find(content);
    if (known == ids_.end()) {
      SetEntry(where, id, content);
    } else if (known->second != id) {
      Fail(where,
           absl::StrCat(Quoted(content), " has the id ", id, ", in model.vocab ", known->second));
    }
    if (!Ok()) return;
    out_->entries_[id].bytes = content;
    out_->added_[normalized ? 1 : 0].Add(content, id);
    if (!special) return;
    out_->entries_[id].special = true;
    out_->words_.erase(content);
    // Plain text must never become a special token.
    const auto& bytes = out_->byte_ids_;
    if (std::find(bytes.begin(), bytes.end(), id) != bytes.end()) {
      Fail(where, "a special token cannot be a single byte's");
    }
    const auto made = merged_.find(id);
    if (made != merged_.end()) {
      Fail(where,
           absl::StrCat("a special token cannot be made by model.merges[", made->second, "]"));
    }
  }

  // --- How a text is cut. ---

  void AddStep(bool prefix_space, const std::string& pattern, bool keep_gaps,
               const std::string& where) {
    if (out_->steps_.size() == kMaxSteps) return Fail(where, "too many steps");
    ByteLevelBpe::Step step;
    step.prefix_space = prefix_space;
    if (!pattern.empty()) {
      auto splitter = TextSplitter::Create(pattern, keep_gaps);
      if (!splitter.ok()) return Fail(where, std::string(splitter.status().message()));
      step.splitter = *std::move(splitter);
    }
    out_->steps_.push_back(std::move(step));
  }

  void ReadPreTokenizer(const Json& json, const std::string& where) {
    if (byte_level_) return Fail(where, "nothing may come after ByteLevel");
    if (json.is_null()) return Fail(where, "missing");
    if (Is(json, "Sequence")) {
      return ReadSequence(json, where, "pretokenizers", [this](const Json& item, const auto& name) {
        ReadPreTokenizer(item, name);
      });
    }
    JsonFields fields(json, where);
    if (Is(json, "ByteLevel")) {
      byte_level_ = true;
      OnlyKeys(json, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
      const bool prefix_space = fields.Bool("add_prefix_space", true);
      const bool use_regex = fields.Bool("use_regex", true);
      Keep(fields);
      if (!prefix_space && !use_regex) return;
      AddStep(prefix_space, use_regex ? kGpt2Pattern : "", true, where);
    } else if (Is(json, "Split")) {
      ReadSplit(json, where);
    } else if (Is(json, "Digits")) {
      OnlyKeys(json, where, {"type", "individual_digits"});
      const bool each = fields.Bool("individual_digits", false);
      Keep(fields);
      if (Ok()) AddStep(false, each ? R"(\p{N})" : R"(\p{N}+)", true, where);
    } else {
      Fail(where + ".type", absl::StrCat(Type(json), " is not supported; ByteLevel, Split, Digits ",
                                         "and Sequence are"));
    }
  }

  void ReadSplit(const Json& json, const std::string& where) {
    OnlyKeys(json, where, {"type", "pattern", "behavior", "invert"});
    JsonFields fields(json, where);
    const Json& pattern = Member(Member(json, "pattern"), "Regex");
    if (!pattern.is_string()) {
      fields.Fail("pattern", "must be an object with a Regex; nothing else is supported");
    }
    const std::string behavior = fields.String("behavior", "");
    const bool invert = fields.Bool("invert", false);
    // Removed and inverted: what lies between the matches is lost.
    const bool removed = behavior == "Removed" && invert;
    if (behavior != "Isolated" && !removed) {
      fields.Fail("behavior",
                  absl::StrCat("is ", Quoted(behavior),
                               "; only Isolated, or Removed with invert, is supported"));
    }
    Keep(fields);
    if (Ok()) AddStep(false, pattern.get<std::string>(), !removed, where + ".pattern.Regex");
  }

  template <class ReadItem>
  void ReadSequence(const Json& json, const std::string& where, const std::string& list,
                    const ReadItem& read) {
    OnlyKeys(json, where, {"type", list});
    const Json& items = Member(json, list);
    if (!items.is_array()) return Fail(absl::StrCat(where, ".", list), "must be a list");
    for (size_t i = 0; Ok() && i < items.size(); ++i) {
      read(items[i], absl::StrCat(where, ".", list, "[", i, "]"));
    }
  }

  // --- What comes before a text, and back to text. ---

  void ReadPostProcessor(const Json& json, const std::string& where) {
    if (json.is_null() || Is(json, "ByteLevel")) return;  // The latter only moves offsets.
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

  void ReadDecoder(const Json& json) {
    if (!Is(json, "ByteLevel")) {
      Fail("decoder.type", absl::StrCat(Type(json), " is not supported; only ByteLevel is"));
    }
  }

  // Id of a token that tokenizer_config.json names; -1 where it names none.
  int NamedToken(const std::string& field, const std::string& name) {
    if (name.empty()) return -1;
    const auto found = ids_.find(name);
    if (found != ids_.end()) return found->second;
    Fail(field, absl::StrCat(Quoted(name), " of tokenizer_config.json is no token"));
    return -1;
  }

  ByteLevelBpe* const out_;
  const int vocab_size_;
  absl::Status status_;
  absl::flat_hash_map<std::string, int32_t> ids_;  // By the file's way of writing.
  absl::flat_hash_map<int32_t, size_t> merged_;    // What merges make, and the first one's number.
  bool ignore_merges_ = false, byte_level_ = false;
};

absl::StatusOr<std::unique_ptr<TokenizerVocabulary>> ByteLevelBpe::Load(
    const std::string& json, const std::string& path, const TokenizerConfig& config,
    int vocab_size) {
  const absl::StatusOr<Json> parsed = ParseJson(json.data(), json.size(), path);
  if (!parsed.ok()) return parsed.status();
  auto made = std::make_unique<ByteLevelBpe>();
  const absl::Status status = ByteLevelBpeFile(made.get(), vocab_size).Read(*parsed, config);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));
  }
  return made;
}

}  // namespace packrat
