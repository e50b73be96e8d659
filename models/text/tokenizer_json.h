// What the readers of the parts of a tokenizer.json share. Such a file may come from anywhere, so
// unknown content is refused.
#ifndef PACKRAT_MODELS_TEXT_TOKENIZER_JSON_H_
#define PACKRAT_MODELS_TEXT_TOKENIZER_JSON_H_

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"
#include "models/text/text_normalizer.h"

namespace packrat {

// Use it once. status_ keeps the first error.
class TokenizerJsonReader {
 protected:
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
  static bool Is(const Json& json, const char* type) {
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
  // Calls read(item, its name) for the items of a Sequence's list.
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

  // Adds the step {"type": "Replace", "pattern": {"String": ...}, "content": ...}.
  void ReadReplace(const Json& json, const std::string& where, TextNormalizer* steps) {
    OnlyKeys(json, where, {"type", "pattern", "content"});
    JsonFields fields(json, where);
    const Json& from = Member(Member(json, "pattern"), "String");
    const std::string to = fields.String("content", "");
    if (!from.is_string() || from.get_ref<const std::string&>().empty()) {
      fields.Fail("pattern", "must be an object with a String; nothing else is supported");
    } else if (to.size() > kMaxInserted) {
      fields.Fail("content", absl::StrCat("must have at most ", kMaxInserted, " bytes"));
    } else {
      steps->AddReplace(from.get<std::string>(), to);
    }
    Keep(fields);
    CheckSteps(*steps, where);
  }
  // Steps may multiply what the ones before them have inserted.
  void CheckSteps(const TextNormalizer& steps, const std::string& where) {
    if (steps.size() > kMaxReplaceSteps) {
      Fail(where, absl::StrCat("is more than ", kMaxReplaceSteps, " steps"));
    } else if (steps.growth() > kMaxGrowth) {
      Fail(where, absl::StrCat("makes a text more than ", kMaxGrowth, " times as long"));
    }
  }

  static constexpr size_t kMaxInserted = 64;  // Bytes that a step may insert at one place.
  static constexpr size_t kMaxReplaceSteps = 64;
  static constexpr int kMaxGrowth = 256;
  absl::Status status_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOKENIZER_JSON_H_
