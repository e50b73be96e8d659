// What an answer must be that is a call of a tool, in the way in which the model writes calls.
#ifndef PACKRAT_MODELS_TEXT_TOOL_CALLS_FORCED_CALL_H_
#define PACKRAT_MODELS_TEXT_TOOL_CALLS_FORCED_CALL_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/text/tool_calls/tool_format.h"
#include "nlohmann/json.hpp"

namespace packrat {

struct ForcedCall {
  std::string prefix;  // What the prompt ends with.
  std::string begun;   // The part of it that a ToolCallReader must know.
  // GBNF (gbnf.h). JSON is written as chat templates write it, so that a conversation goes on from
  // the answer as it is.
  std::string grammar;
};

// The id of the model's special token that is written so; -1: it has none. Null: it has none at
// all.
using SpecialTokens = std::function<int32_t(const std::string&)>;

// A call of one of `functions`, a list of at least one {"name": "..", "parameters": {..}}, of which
// the latter is a JSON schema of an object, or missing. INVALID_ARGUMENT names the function whose
// name or arguments cannot be written in this format. A schema that is not supported shows when the
// result is compiled, and CheckParameters() finds it.
//
// Where arguments are not JSON they come in the order of the schema's properties, and a text in
// qwen_xml is held to `enum` and `const` alone.
absl::StatusOr<ForcedCall> ForceCall(const ToolFormat& format,
                                     const nlohmann::ordered_json& functions,
                                     const SpecialTokens& special);

// GBNF of an answer that is JSON by `schema`, a JSON object as text, or one such call, with what
// comes before it: as the model likes. The same errors.
absl::StatusOr<std::string> JsonOrCall(const std::string& schema, const ToolFormat& format,
                                       const nlohmann::ordered_json& functions,
                                       const SpecialTokens& special);

// Whether the schemas of the function's parameters, of which ForceCall() is OK, are of what a
// grammar takes. INVALID_ARGUMENT says where in them and why: "at #/properties/a: ..". It takes as
// long as compiling the grammar.
absl::Status CheckParameters(const ToolFormat& format, const nlohmann::ordered_json& function);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOOL_CALLS_FORCED_CALL_H_
