// The calls with one answer without a network.
#include "server/generation/unary_call.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/retry_after.h"
#include "server/generation/call_status.h"
#include "server/generation/unary_methods.h"
#include "tests/server/fake_front.h"

namespace packrat {
namespace {

using testing::HasSubstr;

// A call as a front keeps it.
template <typename Request, typename Response>
struct Asked {
  Request request;
  Response response;
  absl::Status status;
  std::shared_ptr<UnaryCall> call;
  std::promise<void> promise;
  std::future<void> answered = promise.get_future();

  const absl::Status& Wait() {
    answered.wait();
    return status;
  }
};

template <typename Request, typename Response>
std::shared_ptr<Asked<Request, Response>> Ask(Replica* replica,
                                              absl::Status (*work)(const CallContext&,
                                                                   const Request&, Response*),
                                              Request request, const CallInfo& info = {}) {
  auto asked = std::make_shared<Asked<Request, Response>>();
  asked->request = std::move(request);
  asked->call = UnaryCall::Create(UnaryMethod<Request, Response>{"Method", work},
                                  replica->environment(), info, &asked->request, &asked->response,
                                  [to = asked](const absl::Status& status) {
                                    to->status = status;
                                    to->promise.set_value();
                                  });
  asked->call->Start();
  return asked;
}

v1::DetokenizeRequest LongText() {
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Resize(5000, 7);
  return request;
}

using Types = std::map<std::string, std::vector<std::string>>;

struct NoteTypes {
  template <typename Request, typename Response>
  void operator()(const UnaryMethod<Request, Response>& method) const {
    (*found)[method.name] = {Request::descriptor()->name(), Response::descriptor()->name()};
  }
  Types* found;
};

TEST(UnaryMethods, AreThoseOfTheServiceThatHaveOneMessageAndOneAnswer) {
  Types expected, found;
  const auto* service = v1::GenerateRequest::descriptor()->file()->FindServiceByName("Inference");
  for (int i = 0; i < service->method_count(); ++i) {
    const auto* method = service->method(i);
    if (method->client_streaming() || method->server_streaming()) continue;
    expected[method->name()] = {method->input_type()->name(), method->output_type()->name()};
  }
  ForEachUnaryMethod(NoteTypes{&found});
  EXPECT_EQ(found, expected);
  EXPECT_GT(found.size(), 5u);
}

TEST(UnaryCall, ShortOnesAreAnsweredInsideOfStart) {
  Replica replica;
  CallInfo info;
  info.request_id = "mine-2";
  auto created = Ask(&replica, &CreateSession, v1::CreateSessionRequest(), info);
  EXPECT_EQ(created->answered.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  ASSERT_TRUE(created->status.ok()) << created->status;
  EXPECT_EQ(created->call->labels().request_id, "mine-2");
  EXPECT_THAT(replica.access_lines().back(), HasSubstr("id=mine-2"));
  EXPECT_THAT(replica.access_lines().back(), HasSubstr("status=OK"));
  v1::GetSessionRequest get;
  get.set_session(created->response.session());
  EXPECT_TRUE(Ask(&replica, &GetSession, get)->Wait().ok());
  get.set_session("nobody's");
  EXPECT_EQ(Ask(&replica, &GetSession, get)->Wait().code(), absl::StatusCode::kNotFound);
  auto info_of_model = Ask(&replica, &GetModelInfo, v1::GetModelInfoRequest());
  ASSERT_TRUE(info_of_model->Wait().ok());
  EXPECT_EQ(info_of_model->response.name(), "fake");
}

TEST(UnaryCall, IsRefusedAsAStreamIs) {
  Replica::Options options;
  options.serve = false;
  Replica loading(options);
  auto early = Ask(&loading, &GetModelInfo, v1::GetModelInfoRequest());
  EXPECT_EQ(early->Wait().code(), absl::StatusCode::kUnavailable);
  options.serve = true;
  options.keys = ApiKeyLine("team", "secret") + "\n";
  Replica replica(options);
  auto nobody = Ask(&replica, &GetModelInfo, v1::GetModelInfoRequest());
  EXPECT_EQ(nobody->Wait().code(), absl::StatusCode::kUnauthenticated);
  CallInfo info;
  info.authorization = "Bearer secret";
  EXPECT_TRUE(Ask(&replica, &GetModelInfo, v1::GetModelInfoRequest(), info)->Wait().ok());
  EXPECT_THAT(replica.access_lines().back(), HasSubstr("caller=team"));
}

TEST(UnaryCall, LongOnesWaitForTheirTurnAndAreLeftOutIfTheClientGoes) {
  Replica replica;
  std::shared_ptr<Asked<v1::DetokenizeRequest, v1::DetokenizeResponse>> stays, goes;
  {
    Busy busy(replica.environment()->texts);
    stays = Ask(&replica, &Detokenize, LongText());
    goes = Ask(&replica, &Detokenize, LongText());
    goes->call->Cancelled();
    EXPECT_EQ(stays->answered.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
    EXPECT_EQ(goes->answered.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  }
  EXPECT_EQ(stays->Wait().code(), absl::StatusCode::kFailedPrecondition) << stays->status;
  EXPECT_EQ(goes->Wait().code(), absl::StatusCode::kCancelled) << goes->status;
}

TEST(UnaryCall, TooManyAreToldWhenToTryAgain) {
  Replica::Options options;
  options.max_queue = 1;
  Replica replica(options);
  std::shared_ptr<Asked<v1::DetokenizeRequest, v1::DetokenizeResponse>> waits;
  {
    Busy busy(replica.environment()->texts);
    waits = Ask(&replica, &Detokenize, LongText());
    auto refused = Ask(&replica, &Detokenize, LongText());
    EXPECT_EQ(refused->Wait().code(), absl::StatusCode::kResourceExhausted);
    ASSERT_TRUE(RetryDelay(refused->status).has_value());
    EXPECT_GE(*RetryDelay(refused->status), kShortestRetryAfter);
  }
  EXPECT_EQ(waits->Wait().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(RetryDelay(waits->status), std::nullopt);
}

TEST(UnaryCall, TheEndOfTheServerWaitsUntilTheFrontLetsGo) {
  Replica replica;
  StreamCount& answers = replica.environment()->answers;
  auto asked = Ask(&replica, &GetModelInfo, v1::GetModelInfoRequest());
  EXPECT_TRUE(asked->Wait().ok());
  EXPECT_EQ(answers.count(), 1);
  asked.reset();
  EXPECT_EQ(answers.count(), 0);
}

}  // namespace
}  // namespace packrat
