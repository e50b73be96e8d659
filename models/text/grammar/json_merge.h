// What the keywords of a JSON schema are, and how schemas that hold at once become one.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_JSON_MERGE_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_JSON_MERGE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
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
// What copying or comparing it costs.
size_t JsonWeight(const OrderedJson& value);
// Whether the schema says something beside $ref, allOf, anyOf and oneOf.
bool HasOwnKeywords(const OrderedJson& schema);

// Adds to `base`, an object, the keywords of `part` but for $ref, allOf, and without `branches`
// anyOf and oneOf. INVALID_ARGUMENT names one that is not known, or cannot be added beside what is
// there. *work grows by what it did, as JsonWeight().
absl::Status MergeSchema(const OrderedJson& part, bool branches, OrderedJson* base, size_t* work);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_JSON_MERGE_H_
