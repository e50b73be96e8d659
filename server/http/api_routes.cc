#include "server/http/api_routes.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "models/text/marked_text.h"
#include "models/text/tokenizer.h"
#include "models/text/tool_calls/tool_format.h"
#include "server/generation/unary_methods.h"
#include "server/http/api_door.h"
#include "server/http/generation_answer.h"
#include "server/http/proto_json.h"
#include "server/http/transfer_answer.h"
#include "server/http/unary_answer.h"
#include "server/openai/json.h"
#include "server/openai/openai.h"

namespace packrat {
namespace {

using openai::Endpoint;
using RequestPtr = std::shared_ptr<ApiRequest>;

constexpr char kJson[] = "application/json";
constexpr char kEvents[] = "text/event-stream";
constexpr char kLines[] = "application/x-ndjson";

HttpAnswer OpenAiRefusal(const absl::Status& status) {
  const openai::ErrorAnswer error = openai::MakeErrorAnswer(status);
  HttpAnswer answer = {error.http_status, kJson, error.body, {}};
  if (error.retry_after.has_value()) {
    const int64_t ms = absl::ToInt64Milliseconds(*error.retry_after);
    // The first is HTTP's, the second what OpenAI's own clients look for first.
    answer.headers.emplace_back("Retry-After",
                                absl::StrCat(std::max<int64_t>((ms + 999) / 1000, 1)));
    answer.headers.emplace_back("Retry-After-Ms", absl::StrCat(ms));
  }
  if (answer.status == 503 && answer.headers.empty()) answer.headers = {{"Retry-After", "1"}};
  if (answer.status == 401) answer.headers.emplace_back("WWW-Authenticate", "Bearer");
  return answer;
}

// `option`: --tool_format.
const ToolFormat* FormatOfTools(const Tokenizer& tokenizer, const std::string& option) {
  if (option != "auto") return FindToolFormat(option);  // Null: none.
  return tokenizer.chat_template().ok() ? tokenizer.chat_template()->tool_format() : nullptr;
}

int32_t SpecialToken(const Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.Encode(MarkedText(text, MarkedText::kOwn));
  const bool is_one = ids.ok() && ids->size() == 1 && tokenizer.IsSpecial(ids->front());
  return is_one ? ids->front() : -1;
}

// A part of a path as it was meant (RFC 3986, 2.1): clients write "a/b" as "a%2Fb".
std::string PercentDecoded(absl::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text[i] == '%' && i + 2 < text.size() &&
                         absl::ascii_isxdigit(text[i + 1]) && absl::ascii_isxdigit(text[i + 2]);
    decoded += escaped ? absl::HexStringToBytes(text.substr(i + 1, 2)) : std::string(1, text[i]);
    if (escaped) i += 2;
  }
  return decoded;
}

// OpenAI's endpoints.
class OpenAiFront : public std::enable_shared_from_this<OpenAiFront> {
 public:
  explicit OpenAiFront(CallEnvironment* environment)
      : environment_(environment), started_(absl::ToUnixSeconds(absl::Now())) {}

  void Generate(Endpoint endpoint, const RequestPtr& request) {
    auto parsed = openai::ParseAsk(endpoint, request->http.body, context());
    if (!parsed.ok()) return request->Refuse(parsed.status());
    request->http = {};  // It may be large.
    GenerationAsk ask;
    ask.calls = std::exchange(parsed->calls, {});
    ask.stream = parsed->form.stream;
    ask.content_type = ask.stream ? kEvents : kJson;
    const auto asked = std::make_shared<openai::Ask>(*std::move(parsed));
    ask.name = [asked](const absl::Status& status, size_t call) {
      return asked->InClientsNames(status, call);
    };
    ask.refuse = OpenAiRefusal;
    ask.make_writer = [front = shared_from_this(), asked](const std::string& id) {
      return openai::MakeAnswerWriter(std::move(asked->form), front->context(), id,
                                      absl::ToUnixSeconds(absl::Now()));
    };
    AnswerGenerations(environment_, std::move(ask), request->info, request->reply);
  }

  void Models(const RequestPtr& request) {
    request->Answer({200, kJson, openai::ListModels(context()), {}});
  }

  void Model(const RequestPtr& request) {
    static constexpr char kPrefix[] = "/v1/models/";
    const absl::string_view name = absl::string_view(request->http.path).substr(sizeof kPrefix - 1);
    const auto model = openai::GetModel(context(), PercentDecoded(name));
    if (!model.ok()) return request->Refuse(model.status());
    request->Answer({200, kJson, *model, {}});
  }

  // Called once there is a model, which stays.
  const openai::Context& context() {
    std::call_once(made_, [this] {
      const ServedModel& served = *environment_->served.load();
      context_.model = environment_->options->model_name;
      context_.fingerprint = served.model->fingerprint();
      context_.started = started_;
      context_.max_context = served.engine->options().max_context;
      if (served.tokenizer != nullptr) {
        context_.piece = [tokenizer = served.tokenizer](int32_t id) {
          return tokenizer->PieceText(id);
        };
        context_.special = [tokenizer = served.tokenizer](const std::string& text) {
          return SpecialToken(*tokenizer, text);
        };
        if (served.tokenizer->chat_template().ok()) {
          context_.names_role = [tokenizer = served.tokenizer](const std::string& role) {
            return tokenizer->chat_template()->Names(role);
          };
        }
        context_.tool_format = FormatOfTools(*served.tokenizer, environment_->options->tool_format);
      }
    });
    return context_;
  }

 private:
  CallEnvironment* const environment_;
  const int64_t started_;
  std::once_flag made_;
  openai::Context context_;
};

void TokenizeText(OpenAiFront* front, const RequestPtr& request) {
  auto ask = openai::ParseTokenize(request->http.body, front->context());
  if (!ask.ok()) return request->Refuse(ask.status());
  request->refuse = [names = std::move(ask->names)](const absl::Status& status) {
    return OpenAiRefusal(openai::InNames(names, status));
  };
  AnswerUnary<v1::TokenizeRequest, v1::TokenizeResponse>(
      {"Tokenize", &Tokenize}, request, std::move(ask->call),
      [max_context = front->context().max_context](const v1::TokenizeResponse& response) {
        const std::vector<int32_t> tokens(response.token_ids().begin(), response.token_ids().end());
        return HttpAnswer{
            200,
            kJson,
            openai::Dump(
                {{"count", tokens.size()}, {"max_model_len", max_context}, {"tokens", tokens}}),
            {}};
      });
}

void DetokenizeIds(OpenAiFront* front, const RequestPtr& request) {
  auto ask = openai::ParseDetokenize(request->http.body, front->context());
  if (!ask.ok()) return request->Refuse(ask.status());
  request->refuse = [names = std::move(ask->names)](const absl::Status& status) {
    return OpenAiRefusal(openai::InNames(names, status));
  };
  AnswerUnary<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      {"Detokenize", &Detokenize}, request, std::move(ask->call),
      [](const v1::DetokenizeResponse& response) {
        return HttpAnswer{200, kJson, openai::Dump({{"prompt", response.text()}}), {}};
      });
}

// Generate and Score of packrat.v1.
template <typename Request>
void GenerateMessages(const RequestPtr& request) {
  Request message;
  const absl::Status status = FromJson(request->http.body, &message);
  if (!status.ok()) return request->Refuse(status);
  const bool events = absl::StrContains(request->http.Header("Accept"), kEvents);
  request->http = {};
  GenerationAsk ask;
  ask.calls.emplace_back(std::move(message));
  ask.stream = true;
  ask.content_type = events ? kEvents : kLines;
  ask.name = [](const absl::Status& status, size_t) { return status; };
  ask.refuse = StatusAnswer;
  ask.make_writer = [events](const std::string&) { return MakeMessageWriter(events); };
  AnswerGenerations(request->environment, std::move(ask), request->info, request->reply);
}

template <typename Request, typename Response>
void AnswerMessage(const UnaryMethod<Request, Response>& method, const RequestPtr& request) {
  Request message;
  const absl::Status status = FromJson(request->http.body, &message);
  if (!status.ok()) return request->Refuse(status);
  request->http = {};
  AnswerUnary<Request, Response>(method, request, std::move(message), [](const Response& response) {
    return HttpAnswer{200, kJson, ToJson(response) + "\n", {}};
  });
}

}  // namespace

std::vector<HttpRoute> ApiRoutes(CallEnvironment* environment) {
  std::vector<HttpRoute> routes;
  const auto add = [&](const std::string& path, const char* method, const char* call, auto refuse,
                       std::function<void(const RequestPtr&)> work) {
    routes.push_back(
        {path, method, ApiDoor{environment, call, path, std::move(refuse), std::move(work)},
         /*open_to_all=*/false, static_cast<size_t>(environment->options->max_message_bytes),
         /*waits=*/true, /*cross_origin=*/true});
  };
  const auto front = std::make_shared<OpenAiFront>(environment);
  for (const auto& [path, endpoint] : {std::pair("/v1/completions", Endpoint::kCompletions),
                                       {"/v1/chat/completions", Endpoint::kChat},
                                       {"/v1/responses", Endpoint::kResponses}}) {
    add(path, "POST", "Generate", OpenAiRefusal,
        [front, e = endpoint](const RequestPtr& request) { front->Generate(e, request); });
  }
  add("/v1/models", "GET", "GetModelInfo", OpenAiRefusal,
      [front](const RequestPtr& request) { front->Models(request); });
  add("/v1/models/*", "GET", "GetModelInfo", OpenAiRefusal,
      [front](const RequestPtr& request) { front->Model(request); });
  add("/v1/embeddings", "POST", "Generate", OpenAiRefusal,
      [](const RequestPtr& request) { request->Refuse(openai::NoEmbeddings()); });
  add("/tokenize", "POST", "Tokenize", OpenAiRefusal,
      [front](const RequestPtr& request) { TokenizeText(front.get(), request); });
  add("/detokenize", "POST", "Detokenize", OpenAiRefusal,
      [front](const RequestPtr& request) { DetokenizeIds(front.get(), request); });

  static constexpr char kOurs[] = "/packrat/v1/";
  add(absl::StrCat(kOurs, "Generate"), "POST", "Generate", &StatusAnswer,
      &GenerateMessages<v1::GenerateRequest>);
  add(absl::StrCat(kOurs, "Score"), "POST", "Score", &StatusAnswer,
      &GenerateMessages<v1::ScoreRequest>);
  ForEachUnaryMethod([&](auto method) {
    add(absl::StrCat(kOurs, method.name), "POST", method.name, &StatusAnswer,
        [method](const RequestPtr& request) { AnswerMessage(method, request); });
  });
  add(absl::StrCat(kOurs, "SaveSession"), "POST", "SaveSession", &StatusAnswer, &AnswerSave);
  HttpRoute load = {absl::StrCat(kOurs, "LoadSession"), "POST", nullptr};
  load.upload = [environment](const HttpRequest& head) { return TakeSession(environment, head); };
  load.max_body_bytes = size_t{1} << 39;  // More than any; nobody holds all of it.
  load.waits = load.cross_origin = true;
  routes.push_back(std::move(load));
  routes.push_back({"/openapi.json", "GET", AtOnce([](const HttpRequest&) {
                      return HttpAnswer{200, kJson, openai::OpenApi(), {}};
                    })});
  return routes;
}

HttpAnswer ApiRefusal(const std::string& path, int status, const std::string& message) {
  const bool ours = absl::StartsWith(path, "/packrat/");
  // OpenAI's clients show the message of such an answer alone; and where there is no page, most
  // likely one of them has a base URL without /v1.
  const bool openai = !ours && (absl::StartsWith(path, "/v1/") || path == "/tokenize" ||
                                path == "/detokenize" || status == 404);
  if (!openai && !ours) return PlainRefusal(status, message);
  // The nearest code; what is said over HTTP stays the HTTP status.
  absl::Status as = absl::InvalidArgumentError(message);
  if (status == 404) as = absl::NotFoundError(message);
  if (status == 403) as = absl::PermissionDeniedError(message);
  if (status == 408) as = absl::DeadlineExceededError(message);
  if (status == 500) as = absl::InternalError(message);
  if (status == 501 || status == 405) as = absl::UnimplementedError(message);
  if (status == 503) as = absl::UnavailableError(message);
  HttpAnswer answer = openai ? OpenAiRefusal(as) : StatusAnswer(as);
  answer.status = status;
  return answer;
}

}  // namespace packrat
