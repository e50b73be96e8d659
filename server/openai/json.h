// Reads the JSON of clients, which are not trusted, and writes JSON that is valid whatever it
// holds.
#ifndef PACKRAT_SERVER_OPENAI_JSON_H_
#define PACKRAT_SERVER_OPENAI_JSON_H_

#include <google/protobuf/message.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/files/ordered_json.h"

namespace packrat::openai {

// Objects keep the order of their members: a template writes tools in the client's order, and a
// schema's properties are generated in it.
using packrat::OrderedJson;

// INVALID_ARGUMENT, "FIELD WHY", of which ParamOf() finds FIELD again.
absl::Status Refuse(absl::string_view field, absl::string_view why);
// The same for another code.
absl::Status WithParam(absl::Status status, absl::string_view field);
std::optional<std::string> ParamOf(const absl::Status& status);

// The object that `text` is. Strict: no comments, nothing behind it, no NUL, NaN or number that a
// double cannot hold, no key twice, no lone surrogate, at most kMaxRequestJsonDepth levels. Takes
// time and memory in proportion to `text`. INVALID_ARGUMENT names the field in which the error is.
absl::StatusOr<OrderedJson> ParseBody(absl::string_view text);
// The same of what another handler makes of the text.
absl::Status ScanBody(absl::string_view text, StrictJsonSax* sax);

// A name that the client made up: as it is, or cut and in quotes.
std::string ShownName(absl::string_view name);

// Null counts as absent.
const OrderedJson* Find(const OrderedJson& object, const char* name);

// Refuses members that are not among `names` and not null, as "FIELD.NAME"; of the body, whose
// `field` is empty, as "NAME".
absl::Status OnlyMembers(absl::string_view field, const OrderedJson& object,
                         std::initializer_list<const char*> names);

// "FIELD is 1.5; must be WHAT".
absl::Status MustBe(absl::string_view field, const OrderedJson& value, absl::string_view what);

// Each refuses what has another type.
absl::StatusOr<std::string> ReadString(absl::string_view field, const OrderedJson& value);
absl::StatusOr<bool> ReadBool(absl::string_view field, const OrderedJson& value);
absl::StatusOr<int> ReadInt(absl::string_view field, const OrderedJson& value);

// Sets what lies at `path` of `message`, such as "sampling.top_k", to `value`, whose type must be
// that of the field there: a list if it is repeated, an object of the same names if it is a
// message. Integers may be negative where the field is unsigned: they stand for the same bits.
absl::Status SetPath(absl::string_view field, const OrderedJson& value, absl::string_view path,
                     google::protobuf::Message* message);

// As text. Bytes that are not UTF-8 become U+FFFD.
std::string Dump(const OrderedJson& value);
// The same of a text, for what is written once a token: without a tree.
std::string JsonText(const std::string& text);

}  // namespace packrat::openai

#endif  // PACKRAT_SERVER_OPENAI_JSON_H_
