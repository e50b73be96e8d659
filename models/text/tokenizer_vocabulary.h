// A vocabulary, and the rule that cuts a text into its tokens. There is a class for each kind of
// file.
#ifndef PACKRAT_MODELS_TEXT_TOKENIZER_VOCABULARY_H_
#define PACKRAT_MODELS_TEXT_TOKENIZER_VOCABULARY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "models/text/marked_text.h"

namespace packrat {

// Where a piece of text stands. This decides whether a space is added before it. kBegin: at the
// beginning of a text. kContinuation: at the beginning of a text that continues another; no space
// is added. kInside: behind a token of the same text.
enum class TextPlace { kBegin, kContinuation, kInside };

// Where in a text special tokens are looked for: everywhere, nowhere, or where all bytes of one are
// the template's own. Elsewhere they are plain text.
class SpecialPlaces {
 public:
  static SpecialPlaces Everywhere() { return SpecialPlaces(true, nullptr); }
  static SpecialPlaces Nowhere() { return SpecialPlaces(false, nullptr); }
  // `marks`: those of a MarkedText; they outlive it.
  explicit SpecialPlaces(const std::string* marks) : marks_(marks) {}

  bool AreAll(size_t at, size_t size) const { return Has(at, size, MarkedText::kForeign, false); }
  bool AreSome(size_t at, size_t size) const { return Has(at, size, MarkedText::kOwn, true); }
  // Null where they do not differ from byte to byte.
  const std::string* marks() const { return marks_; }

 private:
  SpecialPlaces(bool everywhere, const std::string* marks)
      : everywhere_(everywhere), marks_(marks) {}
  bool Has(size_t at, size_t size, char mark, bool then) const {
    if (marks_ == nullptr) return everywhere_;
    const auto begin = marks_->begin() + static_cast<std::ptrdiff_t>(at);
    const auto end = begin + static_cast<std::ptrdiff_t>(size);
    return (std::find(begin, end, mark) != end) == then;
  }

  bool everywhere_ = false;
  const std::string* marks_;
};

// Ids are in [0, size()). Const members are thread-safe.
class TokenizerVocabulary {
 public:
  virtual ~TokenizerVocabulary() = default;

  // Appends the ids of `text`, which is valid UTF-8 and stands at `place`. Special tokens that are
  // written in it become their ids at `special` only.
  virtual absl::Status Encode(const std::string& text, TextPlace place,
                              const SpecialPlaces& special, std::vector<int32_t>* ids) const = 0;

  virtual std::string kind() const = 0;  // For people.
  virtual int size() const = 0;
  virtual int bos_id() const = 0;  // -1 if there is none; the same below.
  virtual int eos_id() const = 0;
  virtual bool adds_bos() const = 0;  // If neither the request nor the config says so.
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::string Text(int32_t id) const = 0;  // Raw bytes; the name of a special token.

  // adds_space(): Encode() adds a space before a text, and decoding removes it. adds_space_once():
  // it does so at the beginning only, so text after a special token keeps its space.
  // MayBeginWithAddedSpace(): Text(id) may begin with that space.
  virtual bool adds_space() const = 0;
  virtual bool adds_space_once() const = 0;
  virtual bool MayBeginWithAddedSpace(int32_t id) const = 0;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOKENIZER_VOCABULARY_H_
