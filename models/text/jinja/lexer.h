// Cuts the source of a template into tokens, with the white space that transformers' settings take
// away (trim_blocks, lstrip_blocks) gone, and comments too.
#ifndef PACKRAT_MODELS_TEXT_JINJA_LEXER_H_
#define PACKRAT_MODELS_TEXT_JINJA_LEXER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace packrat::jinja {

struct Token {
  enum class Kind {
    kText,           // What the template writes as it is.
    kVariableBegin,  // {{
    kVariableEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,  // Its value, without quotes and escapes.
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind;
  std::string text;
  int line;
};

// The last token is kEnd. INVALID_ARGUMENT: "line 3: ...".
absl::StatusOr<std::vector<Token>> Lex(const std::string& source);

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_LEXER_H_
