// Reads the subset of Jinja that chat templates use: for, if, set, macro, call, filter, with,
// generation, break, continue, raw and comments. Nothing in it reads a file or names another
// template.
#ifndef PACKRAT_MODELS_TEXT_JINJA_PARSER_H_
#define PACKRAT_MODELS_TEXT_JINJA_PARSER_H_

#include <string>

#include "absl/status/statusor.h"
#include "models/text/jinja/syntax.h"

namespace packrat::jinja {

// INVALID_ARGUMENT: "line 3: ...".
absl::StatusOr<Body> Parse(const std::string& source);

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_PARSER_H_
