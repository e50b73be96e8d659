// What both parsers read from: tokens in order, the first error, and how deep they are.
#ifndef PACKRAT_MODELS_TEXT_JINJA_TOKEN_STREAM_H_
#define PACKRAT_MODELS_TEXT_JINJA_TOKEN_STREAM_H_

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "models/text/jinja/lexer.h"

namespace packrat::jinja {

class TokenStream {
 public:
  using Kind = Token::Kind;
  // A template that nests deeper is refused: what walks through it needs little stack.
  static constexpr int kMaxNesting = 64;

  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }
  void Fail(absl::string_view why) {
    if (ok()) status_ = absl::InvalidArgumentError(absl::StrCat("line ", now().line, ": ", why));
  }

  // After an error every token is the last one, so that every loop ends.
  const Token& now() const { return ok() ? tokens_[at_] : tokens_.back(); }
  const Token& next() const {
    return ok() && at_ + 1 < tokens_.size() ? tokens_[at_ + 1] : tokens_.back();
  }
  Token Take() {
    Token token = now();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool Is(Kind kind) const { return now().kind == kind; }
  bool IsName(absl::string_view name) const { return Is(Kind::kName) && now().text == name; }
  bool IsOperator(absl::string_view name) const {
    return Is(Kind::kOperator) && now().text == name;
  }
  bool TakeName(absl::string_view name) {
    const bool is = IsName(name);
    if (is) Take();
    return is;
  }
  bool TakeOperator(absl::string_view name) {
    const bool is = IsOperator(name);
    if (is) Take();
    return is;
  }
  void Expect(absl::string_view op) {
    if (!TakeOperator(op)) Fail(absl::StrCat("expected '", op, "', got '", Shown(), "'"));
  }
  void Expect(Kind kind) {
    if (Is(kind)) {
      Take();
    } else {
      Fail(absl::StrCat("unexpected '", Shown(), "'"));
    }
  }
  size_t at() const { return at_; }
  // Whether a name stands between a place and here.
  bool Named(absl::string_view name, size_t begin) const {
    return std::any_of(tokens_.begin() + begin, tokens_.begin() + at_, [name](const Token& token) {
      return token.kind == Kind::kName && token.text == name;
    });
  }
  std::string ExpectName() {
    if (Is(Kind::kName)) return Take().text;
    Fail(absl::StrCat("expected a name, got '", Shown(), "'"));
    return "";
  }
  std::string Shown() const {
    switch (now().kind) {
      case Kind::kEnd:
        return "the end of the template";
      case Kind::kVariableEnd:
        return "}}";
      case Kind::kBlockEnd:
        return "%}";
      default:
        return now().text.substr(0, 40);
    }
  }

  // Held by whoever goes one level deeper.
  class Nested {
   public:
    explicit Nested(TokenStream* stream) : stream_(stream) {
      if (++stream_->depth_ > kMaxNesting) {
        stream_->Fail(absl::StrCat("nested more than ", kMaxNesting, " levels deep"));
      }
    }
    ~Nested() { --stream_->depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    TokenStream* const stream_;
  };

 private:
  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  absl::Status status_;
};

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_TOKEN_STREAM_H_
