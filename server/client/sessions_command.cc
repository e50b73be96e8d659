// packrat sessions: texts that the server keeps between calls.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/client/commands.h"
#include "server/client/request_flags.h"
#include "server/client/terminal_text.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

std::string Seconds(double seconds) {
  if (seconds < 1) return "0s";
  return absl::FormatDuration(absl::Trunc(absl::Seconds(seconds), absl::Seconds(1)));
}

std::string Describe(const v1::Session& session) {
  return absl::StrFormat("%s  %7d tokens %5d turns %8.1f KB  idle %s of %s%s\n", session.session(),
                         session.tokens(), session.num_turns(),
                         static_cast<double>(session.state_bytes()) / 1e3,
                         Seconds(session.idle_seconds()), Seconds(session.ttl_seconds()),
                         session.busy() ? ", busy" : "");
}

// Reports an error, or prints `text` or the message as JSON.
int Answer(const Connection& connection, const Connection::Outcome& outcome,
           const google::protobuf::Message& message, const std::string& text) {
  if (!outcome.status.ok()) return Report(connection, outcome);
  Print(absl::GetFlag(FLAGS_json) ? ToJson(message) + "\n" : text);
  return kExitOk;
}

int List(Connection* connection) {
  v1::ListSessionsRequest request;
  if (absl::GetFlag(FLAGS_limit) != 0) request.set_limit(absl::GetFlag(FLAGS_limit));
  v1::ListSessionsResponse response;
  const Connection::Outcome outcome = connection->ListSessions(request, &response);
  std::string text;
  for (const v1::Session& session : response.sessions()) text += Describe(session);
  const int more = response.total() - response.sessions_size();
  if (more > 0) absl::StrAppend(&text, "and ", more, " more (--limit)\n");
  return Answer(*connection, outcome, response, text);
}

// The text of the session, or its ids if the model has no tokenizer.
int Show(Connection* connection, const std::string& handle) {
  v1::GetSessionRequest request;
  request.set_session(handle);
  request.set_include_token_ids(true);
  v1::Session session;
  const Connection::Outcome outcome = connection->GetSession(request, &session);
  if (!outcome.status.ok() || absl::GetFlag(FLAGS_json)) {
    return Answer(*connection, outcome, session, "");
  }
  v1::DetokenizeRequest ids;
  FillFromFlags(&ids);
  *ids.mutable_token_ids() = session.token_ids();
  v1::DetokenizeResponse text;
  const Connection::Outcome detokenized = connection->Detokenize(ids, &text);
  if (!absl::IsFailedPrecondition(detokenized.status) && !detokenized.status.ok()) {
    return Report(*connection, detokenized);
  }
  PrintText(absl::StrCat(
      Describe(session), "turns end at ", absl::StrJoin(session.turn_ends(), " "), "\n\n",
      detokenized.status.ok() ? text.text() : absl::StrJoin(session.token_ids(), " "), "\n"));
  return kExitOk;
}

int Rewind(Connection* connection, const std::string& handle) {
  const auto turns = absl::GetFlag(FLAGS_keep_turns).value;
  const auto tokens = absl::GetFlag(FLAGS_keep_tokens).value;
  if (turns.has_value() == tokens.has_value()) {
    return UsageError("sessions rewind takes --keep_turns or --keep_tokens");
  }
  v1::RewindSessionRequest request;
  request.set_session(handle);
  if (turns.has_value()) request.set_turns(*turns);
  if (tokens.has_value()) request.set_tokens(*tokens);
  v1::Session session;
  const Connection::Outcome outcome = connection->RewindSession(request, &session);
  return Answer(*connection, outcome, session, Describe(session));
}

Connection::Outcome Create(Connection* connection, v1::Session* session) {
  v1::CreateSessionRequest request;
  const auto ttl = absl::GetFlag(FLAGS_ttl).value;
  if (ttl.has_value()) request.set_ttl_seconds(absl::ToDoubleSeconds(*ttl));
  return connection->CreateSession(request, session);
}

}  // namespace

int SessionsCommand(Connection* connection, const std::vector<std::string>& arguments) {
  const std::string what = arguments.empty() ? "" : arguments[0];
  v1::Session session;
  if (arguments.size() == 1 && what == "create") {
    const Connection::Outcome outcome = Create(connection, &session);
    return Answer(*connection, outcome, session, session.session() + "\n");
  }
  if (arguments.size() == 1 && what == "list") return List(connection);
  if (arguments.size() == 2) {
    const std::string& handle = arguments[1];
    const absl::Status valid = CheckUtf8("the handle", handle);
    if (!valid.ok()) return UsageError(std::string(valid.message()));
    if (what == "show") return Show(connection, handle);
    if (what == "rewind") return Rewind(connection, handle);
    if (what == "fork") {
      v1::ForkSessionRequest request;
      request.set_session(handle);
      const Connection::Outcome outcome = connection->ForkSession(request, &session);
      return Answer(*connection, outcome, session, session.session() + "\n");
    }
    if (what == "delete") {
      v1::DeleteSessionRequest request;
      request.set_session(handle);
      return Report(*connection, connection->DeleteSession(request));
    }
  }
  return UsageError("sessions create, list, or show, fork, rewind, delete with a HANDLE");
}

Connection::Outcome MakeSessionIfNew(Connection* connection, v1::GenerateRequest* request) {
  if (request->session() != "new") return {};
  v1::Session session;
  Connection::Outcome outcome = Create(connection, &session);
  if (!outcome.status.ok()) return outcome;
  request->set_session(session.session());
  std::fprintf(stderr, "[session %s]\n", session.session().c_str());
  return outcome;
}

}  // namespace packrat
