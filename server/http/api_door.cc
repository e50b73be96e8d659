#include "server/http/api_door.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/no_memory.h"
#include "server/http/call_headers.h"
#include "server/work_pool.h"

namespace packrat {

constexpr char kJsonType[] = "application/json";

bool HasType(const HttpRequest& http, absl::string_view type) {
  const absl::string_view said = http.Header("Content-Type");
  return absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(said.substr(0, said.find(';'))), type);
}

absl::Status WrongType(absl::string_view type) {
  return absl::InvalidArgumentError(absl::StrCat("the header Content-Type must be ", type));
}

void ApiRequest::Refuse(const absl::Status& status, std::optional<int> http_status) const {
  account->End(status);
  HttpAnswer answer = refuse(status);
  if (http_status.has_value()) answer.status = *http_status;
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
  request->info.path = path;
  request->account = std::make_shared<CallAccount>(call, environment, request->info);
  // The same from here on, whether the client has given one or not.
  request->info.request_id = request->account->labels().request_id;
  if (!info.ok()) return request->Refuse(info.status());
  absl::Status status = request->account->Enter();
  if (!status.ok()) return request->Refuse(status);
  const size_t bytes = http.body.size();
  // Where there is no body too: a page of another site may send that.
  if (http.method == "POST" && !HasType(http, kJsonType)) {
    return request->Refuse(WrongType(kJsonType), 415);
  }
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
