// A text that remembers which of its bytes the model's template wrote, and which came from a
// client. A special token is recognised in the former alone, so that no message can forge one.
#ifndef PACKRAT_MODELS_TEXT_MARKED_TEXT_H_
#define PACKRAT_MODELS_TEXT_MARKED_TEXT_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace packrat {

class MarkedText {
 public:
  enum Origin : char { kForeign = 0, kOwn = 1 };  // The client's; the template's.

  MarkedText() = default;
  MarkedText(std::string text, Origin origin)
      : text_(std::move(text)), marks_(text_.size(), origin) {}

  const std::string& text() const { return text_; }
  const std::string& marks() const { return marks_; }  // An Origin for each byte of text().
  size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }

  void Append(absl::string_view text, Origin origin) {
    text_.append(text.data(), text.size());
    marks_.append(text.size(), origin);
  }
  void Append(const MarkedText& other) {
    text_ += other.text_;
    marks_ += other.marks_;
  }
  // Bytes [begin, begin + size) of another text, which has them.
  void Append(const MarkedText& other, size_t begin, size_t size) {
    text_.append(other.text_, begin, size);
    marks_.append(other.marks_, begin, size);
  }
  // `text` in place of the byte or character of `other` that begins at `at`, whose mark it gets.
  void AppendAs(absl::string_view text, const MarkedText& other, size_t at) {
    Append(text, static_cast<Origin>(other.marks_[at]));
  }
  MarkedText Part(size_t begin, size_t size) const {
    MarkedText part;
    part.Append(*this, begin, size);
    return part;
  }

 private:
  std::string text_, marks_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_MARKED_TEXT_H_
