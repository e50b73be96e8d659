// The fields of requests to OpenAI's endpoints: the one list of which there are, what they may hold
// and where they go. The parser and the OpenAPI description are both made of it.
#ifndef PACKRAT_SERVER_OPENAI_FIELDS_H_
#define PACKRAT_SERVER_OPENAI_FIELDS_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "models/bounds.h"
#include "server/openai/json.h"
#include "server/openai/openai.h"

namespace packrat::openai {

// A request that is being read. Fields come in the client's order, so what depends on several of
// them is decided once all have been read.
struct Draft {
  Endpoint endpoint = Endpoint::kCompletions;
  const Context* context = nullptr;
  v1::GenerateRequest request;  // Without its prompt, unless that is a chat.
  AnswerForm form;
  std::optional<int> n, best_of, top_logprobs;
  bool listed = false;                           // The prompts came as a list.
  bool stream_options = false;                   // Sent.
  OrderedJson tools = OrderedJson::array();      // As a chat template takes them.
  bool no_tools = false;                         // "tool_choice": "none"
  bool call_forced = false;                      // It asks for a call,
  std::string forced_tool;                       // of this one; empty: of any.
  std::function<absl::Status()> why_no_grammar;  // Ask's.
  std::string instructions;                      // Of /v1/responses.
  OrderedJson template_kwargs;                   // Null: not sent.
  // Further variables of the chat template, by name: the field that sets it, and to what.
  std::map<std::string, std::pair<std::string, OrderedJson>> variables;
  OrderedJson repeated = OrderedJson::object();  // What the answer of /v1/responses repeats.
  // By the path in `request`: the field that set it, and to what.
  std::map<std::string, std::pair<std::string, OrderedJson>> set;

  // Sets what lies at `path` of `request` (SetPath). Two fields may say the same thing, and then
  // must agree.
  absl::Status Set(const std::string& path, const std::string& field, const OrderedJson& value);
};

using ReadField = absl::Status (*)(const std::string& name, const OrderedJson& value, Draft* draft);

struct Field {
  int endpoints;  // A bit for each Endpoint.
  const char* name;
  const char* what;  // A sentence for the description.
  // JSON Schema of its values, of which the parser checks "type", "enum" and a range. Empty: that
  // of `path`.
  const char* schema;
  const char* path;    // Where the value goes in v1::GenerateRequest, as it is; or null.
  const Bound* bound;  // Of `path`, for the description: who runs the call checks it. Or null.
  ReadField read;      // What else reads it; null and no path: taken where the schema holds, and
                       // without effect.
};

const std::vector<Field>& Fields();
inline bool BelongsTo(const Field& field, Endpoint endpoint) {
  return (field.endpoints >> static_cast<int>(endpoint) & 1) != 0;
}
OrderedJson SchemaOf(const Field& field);
// Of a schema what the parser checks of it, see Field::schema.
absl::Status CheckSchema(const std::string& name, const OrderedJson& value,
                         const OrderedJson& schema);

// Reads all members of `body`. INVALID_ARGUMENT names one that is not known, as OpenAI's server
// does: a misspelt option would otherwise change nothing, and nobody would know.
absl::Status ReadFields(const OrderedJson& body, Draft* draft);

// The names in the statuses of who runs the calls, and what this client calls them.
NameList NamesOf(const Draft& draft);

}  // namespace packrat::openai

#endif  // PACKRAT_SERVER_OPENAI_FIELDS_H_
