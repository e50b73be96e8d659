// What the keywords of a JSON schema are, and how schemas that hold at once become one.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_JSON_MERGE_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_JSON_MERGE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/files/ordered_json.h"

namespace packrat {

bool IsAnnotation(absl::string_view keyword);  // It restricts nothing, or only holds schemas.
bool IsKnownKeyword(absl::string_view keyword);
// Of a keyword that is not known: a value with which it restricts nothing.
bool RestrictsNothing(absl::string_view keyword, const OrderedJson& value);
// Types that the keywords of a schema without `type` are about.
std::vector<std::string> ImpliedTypes(const OrderedJson& schema);
bool IsType(absl::string_view type);
bool HasType(const OrderedJson& value, absl::string_view type);
void RemoveAnnotations(OrderedJson* schema);

// Adds to `base`, an object, what `part` asks for. Returns the keyword that cannot be added beside
// what is there; empty: it was done.
std::string MergeSchema(const OrderedJson& part, OrderedJson* base);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_JSON_MERGE_H_
