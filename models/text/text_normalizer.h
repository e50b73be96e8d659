// Changes that a tokenizer makes to a text before it cuts it.
#ifndef PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_
#define PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_

#include <string>
#include <utility>
#include <vector>

namespace packrat {

// Unicode's canonical composition (NFC) of valid UTF-8. The time is linear in the text's length,
// except that runs of combining marks are sorted.
std::string Nfc(const std::string& text);

// Replaces every `from`, which is not empty, by `to`.
std::string ReplaceAll(const std::string& text, const std::string& from, const std::string& to);

// Steps that are applied in the order in which they were added.
class TextNormalizer {
 public:
  void AddNfc() { steps_.push_back({Kind::kNfc, "", ""}); }
  void AddPrepend(std::string text) { steps_.push_back({Kind::kPrepend, "", std::move(text)}); }
  void AddReplace(std::string from, std::string to) {
    steps_.push_back({Kind::kReplace, std::move(from), std::move(to)});
  }

  bool empty() const { return steps_.empty(); }
  // An empty text stays empty. Without `prepend` nothing is added before the text. `marks`, if not
  // null, has a char for each byte of `text`, and then of the result: of what was made of several
  // bytes the lowest of theirs.
  std::string Apply(std::string text, bool prepend = true, std::string* marks = nullptr) const;

 private:
  enum class Kind { kNfc, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string from, to;
  };
  std::vector<Step> steps_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_
