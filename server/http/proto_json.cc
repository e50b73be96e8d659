#include "server/http/proto_json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/files/json.h"
#include "models/text/utf8.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/call_status.h"
#include "server/openai/json.h"

namespace packrat {
namespace {

namespace util = google::protobuf::util;

google::rpc::Status WireStatus(const absl::Status& status) {
  google::rpc::Status wire;
  wire.set_code(static_cast<int32_t>(WireCode(status)));
  wire.set_message(std::string(status.message()));
  const auto after = RetryDelay(status);
  if (!after.has_value()) return wire;
  google::rpc::RetryInfo retry;
  const timespec time = absl::ToTimespec(*after);
  retry.mutable_retry_delay()->set_seconds(time.tv_sec);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(time.tv_nsec));
  wire.add_details()->PackFrom(retry);
  return wire;
}

// As ToJson(), which takes many times as long, for the messages that nearly all of a stream are.
std::string MessageJson(const v1::GenerateResponse& message) {
  if (message.has_finished() || message.logprobs_size() > 0 || message.scores_size() > 0) {
    return ToJson(message);
  }
  std::string json = "{";
  if (message.token_ids_size() > 0) {
    absl::StrAppend(&json, "\"token_ids\":[", absl::StrJoin(message.token_ids(), ","), "],");
  }
  if (!message.text().empty()) {
    absl::StrAppend(&json, "\"text\":", openai::JsonText(message.text()), ",");
  }
  if (message.choice() != 0) absl::StrAppend(&json, "\"choice\":", message.choice(), ",");
  if (json.back() == ',') json.pop_back();
  return json + "}";
}

// The parser repeats values as they are, however long.
std::string Cut(std::string why) {
  constexpr size_t kLongest = 300;
  if (why.size() <= kLongest) return why;
  why.resize(kLongest);
  why.resize(FirstInvalidUtf8(why));
  return why + "...";
}

// Finds a field that is there twice, also where it is once "token_ids" and once "tokenIds", which
// are the same; and what the parser takes for something else: one value where a list must be, "yes"
// or 1 for true, lists and nulls within a list, which it passes over; and two of a oneof, which it
// does not name.
class MessageSax final : public StrictJsonSax {
 public:
  explicit MessageSax(const google::protobuf::Descriptor* type)
      : StrictJsonSax(kMaxRequestJsonDepth), type_(type) {}

  bool key(string_t& name) override {
    std::string own;
    for (const char c : name) {
      if (absl::ascii_isupper(static_cast<unsigned char>(c))) own += '_';
      own += absl::ascii_tolower(static_cast<unsigned char>(c));
    }
    Open& at = open_.back();
    at.field = at.type == nullptr ? nullptr : at.type->FindFieldByName(own);
    return StrictJsonSax::key(own);
  }
  bool null() override { return !in_list() || Fail("null in a list"); }
  bool boolean(bool) override { return Take(Kind::kBool); }
  bool number_integer(number_integer_t) override { return Take(Kind::kOther); }
  bool number_unsigned(number_unsigned_t) override { return Take(Kind::kOther); }
  bool number_float(number_float_t, const string_t&) override { return Take(Kind::kOther); }
  bool string(string_t&) override { return Take(Kind::kOther); }
  bool start_object(size_t size) override {
    if (!StrictJsonSax::start_object(size) || !Take(Kind::kOther)) return false;
    const auto* type = open_.empty()        ? type_
                       : field() == nullptr ? nullptr
                                            : field()->message_type();
    open_.push_back({false, type, nullptr});
    return true;
  }
  bool end_object() override {
    open_.pop_back();
    return StrictJsonSax::end_object();
  }
  bool start_array(size_t size) override {
    if (!StrictJsonSax::start_array(size) || !Take(Kind::kList)) return false;
    open_.push_back({true, nullptr, field()});
    return true;
  }
  bool end_array() override {
    open_.pop_back();
    return StrictJsonSax::end_array();
  }

 private:
  using Field = google::protobuf::FieldDescriptor;
  enum class Kind { kBool, kList, kOther };
  struct Open {
    bool list;
    const google::protobuf::Descriptor* type;  // Of an object; null: of no field that is known.
    const Field* field;  // Whose value is read: the object's latest, or the one of the list.
    std::vector<const Field*> chosen = {};  // Of its oneofs.
  };

  bool in_list() const { return !open_.empty() && open_.back().list; }
  const Field* field() const { return open_.empty() ? nullptr : open_.back().field; }

  bool Take(Kind kind) {
    if (in_list() && kind == Kind::kList) return Fail("a list in a list");
    if (field() == nullptr) return true;
    if (field()->is_repeated() && !in_list() && kind != Kind::kList) {
      return Fail(absl::StrCat(field()->name(), " must be a list"));
    }
    const bool is_flag = field()->type() == Field::TYPE_BOOL;
    if (is_flag && kind != Kind::kBool) {
      return Fail(absl::StrCat(field()->name(), " must be true or false"));
    }
    return in_list() || field()->real_containing_oneof() == nullptr || Choose();
  }

  bool Choose() {
    std::vector<const Field*>& chosen = open_.back().chosen;
    for (const Field* other : chosen) {
      if (other->containing_oneof() == field()->containing_oneof()) {
        return Fail(absl::StrCat(other->name(), " and ", field()->name(), " exclude each other"));
      }
    }
    chosen.push_back(field());
    return true;
  }

  const google::protobuf::Descriptor* const type_;
  std::vector<Open> open_;
};

class MessageWriter final : public openai::AnswerWriter {
 public:
  explicit MessageWriter(bool events) : events_(events) {}

  std::string Begin() override { return ""; }
  std::string Add(size_t, const v1::GenerateResponse& message) override {
    return Piece(MessageJson(message));
  }
  std::string Finish() override { return ""; }
  std::string Fail(const absl::Status& status) override {
    return Piece(absl::StrCat("{\"error\":", ToJson(WireStatus(status)), "}"));
  }

 private:
  // JSON of one line.
  std::string Piece(const std::string& json) const {
    return events_ ? absl::StrCat("data: ", json, "\n\n") : absl::StrCat(json, "\n");
  }

  const bool events_;
};

}  // namespace

absl::Status FromJson(absl::string_view text, google::protobuf::Message* message) {
  if (text.empty()) return absl::OkStatus();
  // The parser below takes the last of two equal fields, quotes of another kind, commas too many.
  MessageSax strict(message->GetDescriptor());
  const absl::Status scanned = openai::ScanBody(text, &strict);
  if (!scanned.ok()) return scanned;
  if (!absl::StartsWith(absl::StripLeadingAsciiWhitespace(text), "{")) {
    return absl::InvalidArgumentError("the body must be an object");
  }
  const auto status = util::JsonStringToMessage({text.data(), text.size()}, message);
  if (status.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the body is no JSON of ", message->GetDescriptor()->full_name(), ": ",
                   Cut({status.message().data(), status.message().size()})));
}

std::string ToJson(const google::protobuf::Message& message) {
  util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  // It fails for Any of an unknown type alone, which no message of ours has.
  if (!util::MessageToJsonString(message, &json, options).ok()) return "{}";
  return json;
}

int HttpStatusOf(const absl::Status& status) {
  switch (WireCode(status)) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kDataLoss:  // Of bytes that the client has sent.
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

HttpAnswer StatusAnswer(const absl::Status& status) {
  HttpAnswer answer = {
      HttpStatusOf(status), "application/json", absl::StrCat(ToJson(WireStatus(status)), "\n"), {}};
  const auto after = RetryDelay(status);
  if (after.has_value() || answer.status == 503) {
    const int64_t seconds =
        after.has_value() ? absl::ToInt64Seconds(absl::Ceil(*after, absl::Seconds(1))) : 1;
    answer.headers.emplace_back("Retry-After", absl::StrCat(std::max<int64_t>(seconds, 1)));
  }
  if (answer.status == 401) answer.headers.emplace_back("WWW-Authenticate", "Bearer");
  return answer;
}

std::unique_ptr<openai::AnswerWriter> MakeMessageWriter(bool events) {
  return std::make_unique<MessageWriter>(events);
}

}  // namespace packrat
