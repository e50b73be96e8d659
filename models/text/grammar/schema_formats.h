// The formats of strings in JSON schemas, as regular expressions of texts that have them: not of
// all of them.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_FORMATS_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_FORMATS_H_

#include <string>

#include "absl/strings/string_view.h"

namespace packrat {

std::string FormatRegex(absl::string_view format);  // Empty: it is not known.
std::string FormatNames();                          // Of all that are known: "date, time, ...".

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_FORMATS_H_
