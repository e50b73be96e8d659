// What a tokenizer does to a text before it cuts it.
#ifndef PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_
#define PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_

#include <string>
#include <utility>
#include <vector>

namespace packrat {

// Unicode's canonical composition (NFC) of valid UTF-8, in time that is linear in the text's length
// but for the sorting of marks that follow one another.
std::string Nfc(const std::string& text);

// Every `from`, which is not empty, replaced by `to`.
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
  // An empty text stays empty. Without `prepend` nothing is put before it.
  std::string Apply(std::string text, bool prepend = true) const;

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
