// What the parts of the OpenAPI description are made of. Private to server/openai.
#ifndef PACKRAT_SERVER_OPENAI_OPEN_API_PARTS_H_
#define PACKRAT_SERVER_OPENAI_OPEN_API_PARTS_H_

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/openai/json.h"

namespace packrat::openai {

inline OrderedJson Content(const char* type, OrderedJson schema) {
  return {{type, {{"schema", std::move(schema)}}}};
}

inline OrderedJson Ref(const std::string& schema) {
  return {{"$ref", absl::StrCat("#/components/schemas/", schema)}};
}

inline OrderedJson Type(const char* type) { return {{"type", type}}; }

inline OrderedJson JsonBody(OrderedJson schema, bool required = true) {
  return {{"required", required}, {"content", Content("application/json", std::move(schema))}};
}

// Why a request may have no answer. Those that every POST has are in kPost.
inline constexpr int kNotFound = 404, kConflict = 409;
inline constexpr int kGet[] = {400, 401, 429, 500, 503, 504};
inline constexpr int kPost[] = {400, 401, 413, 415, 429, 499, 500, 503, 504};

// The responses of an operation: `ok`, unless it is null, and errors in the form of an API,
// "OpenAi" or "Packrat": those of kPost or kGet and `more`.
OrderedJson Responses(OrderedJson ok, const char* form, bool post,
                      std::initializer_list<int> more = {});

// Paths and schemas of packrat.v1 and of the operator's pages, which open_api_packrat.cc adds.
void AddPackratPaths(OrderedJson* paths);
void AddPackratSchemas(OrderedJson* schemas);

}  // namespace packrat::openai

#endif  // PACKRAT_SERVER_OPENAI_OPEN_API_PARTS_H_
