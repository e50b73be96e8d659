// GBNF, the notation of llama.cpp: rules `name ::= alternatives`, of which `root` is what a text
// must match; `<[ID]>`, a special token; and as additions of ours `%json {..}`, a text of a JSON
// schema, and `%json-line {..}`, the same in JsonSpacing::kLine.
// docs/structured_output.md has what is taken.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_GBNF_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_GBNF_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/text/grammar/grammar_rules.h"

namespace packrat {

// INVALID_ARGUMENT says where and why.
absl::StatusOr<GrammarRules> ParseGbnf(absl::string_view text);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_GBNF_H_
