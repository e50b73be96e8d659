// Changes that a tokenizer makes to a text before it cuts it.
#ifndef PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_
#define PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace packrat {

// Unicode's normalization forms: composed or decomposed, and with K by compatibility, which makes
// plain characters of ligatures, wide letters and the like.
enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// The form of valid UTF-8. The time is linear in the text's length, except that runs of combining
// marks are sorted.
std::string Normalized(const std::string& text, UnicodeForm form);

// Replaces every `from`, which is not empty, by `to`.
std::string ReplaceAll(const std::string& text, const std::string& from, const std::string& to);

// Steps that are applied in the order in which they were added.
class TextNormalizer {
 public:
  void AddForm(UnicodeForm form) {
    steps_.push_back({Kind::kForm, "", "", form});
    // The Unicode Standard's largest factors for UTF-8: of U+FB2C and the like, and of U+FDFA.
    growth_ *= form == UnicodeForm::kNfc || form == UnicodeForm::kNfd ? 3 : 11;
  }
  void AddPrepend(std::string text) { steps_.push_back({Kind::kPrepend, "", std::move(text)}); }
  void AddReplace(std::string from, std::string to) {
    growth_ *= std::max(1.0, static_cast<double>(to.size()) / static_cast<double>(from.size()));
    steps_.push_back({Kind::kReplace, std::move(from), std::move(to)});
  }

  bool empty() const { return steps_.empty(); }
  size_t size() const { return steps_.size(); }
  // How many times as long a text may become, but for what is put before it.
  double growth() const { return growth_; }
  // An empty text stays empty. Without `prepend` nothing is added before the text. `marks`, if not
  // null, has a char for each byte of `text`, and then of the result: of what was made of several
  // bytes the lowest of theirs.
  std::string Apply(std::string text, bool prepend = true, std::string* marks = nullptr) const;

 private:
  enum class Kind { kForm, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string from, to;
    UnicodeForm form = UnicodeForm::kNfc;
  };
  std::vector<Step> steps_;
  double growth_ = 1;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TEXT_NORMALIZER_H_
