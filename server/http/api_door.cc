#include "server/http/api_door.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "server/http/call_headers.h"
#include "server/work_pool.h"

namespace packrat {
namespace {

// A page of another site cannot send this type without asking the server first. So no page that
// somebody looks at can use a server that is reachable from there and needs no key.
bool HasType(const HttpRequest& http, absl::string_view expected) {
  const absl::string_view type = http.Header("Content-Type");
  return http.body.empty() ||
         absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(type.substr(0, type.find(';'))),
                                expected);
}

}  // namespace

void ApiRequest::Refuse(const absl::Status& status) const {
  account->End(status);
  HttpAnswer answer = refuse(status);
  AddLabels(account->labels(), &answer);
  reply->Send(std::move(answer));
}

void ApiRequest::Answer(HttpAnswer answer) const {
  account->End(absl::OkStatus());
  AddLabels(account->labels(), &answer);
  reply->Send(std::move(answer));
}

void ApiDoor::operator()(HttpRequest http, std::shared_ptr<HttpReply> reply) const {
  auto info = ReadCallInfo(http);
  auto request = std::make_shared<ApiRequest>();
  request->environment = environment;
  request->reply = std::move(reply);
  request->refuse = refuse;
  if (info.ok()) request->info = *info;
  request->account = std::make_shared<CallAccount>(call, environment, request->info);
  // The same from here on, whether the client has given one or not.
  request->info.request_id = request->account->labels().request_id;
  if (!info.ok()) return request->Refuse(info.status());
  absl::Status status = request->account->Enter();
  if (!status.ok()) return request->Refuse(status);
  if (!HasType(http, content_type)) {
    request->account->End(absl::InvalidArgumentError("Content-Type"));
    HttpAnswer answer = refuse(
        absl::InvalidArgumentError(absl::StrCat("the header Content-Type must be ", content_type)));
    answer.status = 415;
    AddLabels(request->account->labels(), &answer);
    return request->reply->Send(std::move(answer));
  }
  const bool is_json = content_type == absl::string_view("application/json");
  const size_t bytes = is_json ? http.body.size() : 0;
  request->http = std::move(http);
  const auto do_work = [request, work = work] {
    const absl::Status done = UnlessNoMemory([&] {
      work(request);
      return absl::OkStatus();
    });
    if (!done.ok()) request->Refuse(done);
  };
  if (bytes <= WorkPool::kShortBytes) return do_work();
  status = environment->prompts->Submit(bytes, do_work);
  if (!status.ok()) request->Refuse(status);
}

}  // namespace packrat
