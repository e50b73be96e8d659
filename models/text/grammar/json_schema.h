// JSON schemas. docs/structured_output.md has the keywords that are taken; those that would
// restrict and are not known are refused by name, and what only describes is passed over.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_JSON_SCHEMA_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_JSON_SCHEMA_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/text/grammar/grammar_rules.h"

namespace packrat {

// Between the parts of a JSON text. Nothing stands before a colon or comma, before the text and
// behind it.
enum class JsonSpacing {
  kAny,   // Nothing, a space, or a new line with up to 20 spaces or tabs.
  kLine,  // A space behind a colon or comma, and nothing else: as chat templates write it.
};

// Of texts that are valid by the schema; not of all of them. INVALID_ARGUMENT says where, as a JSON
// pointer, and why.
absl::StatusOr<GrammarRules> ParseJsonSchema(absl::string_view text);
// The same as a part of other rules; the first that it adds is the schema's.
absl::StatusOr<GrammarRules::Id> AddJsonSchema(absl::string_view text, JsonSpacing spacing,
                                               GrammarRules* rules);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_JSON_SCHEMA_H_
