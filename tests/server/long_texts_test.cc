// Calls that work on long texts: beside streams, too many at once, cancelled, too much to answer.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "server/client/connection.h"
#include "tests/server/generate.h"

namespace packrat {
namespace {

TestServer::Options WithTokenizer() {
  TestServer::Options options;
  options.tokenizer = true;
  options.model.max_context = 20000;
  options.model.full = false;
  options.model.rat = false;
  return options;
}

v1::TokenizeRequest LongText(size_t bytes) {
  v1::TokenizeRequest request;
  while (request.text().size() < bytes) request.mutable_text()->append("once upon a time, ");
  return request;
}

// Calls of Tokenize from as many threads, all at once.
class Flood {
 public:
  Flood(const TestServer& server, int calls, size_t bytes)
      : connection_({server.address()}), request_(LongText(bytes)) {
    for (int i = 0; i < calls; ++i) {
      threads_.emplace_back([this] {
        v1::TokenizeResponse response;
        const Connection::Outcome outcome = connection_.Tokenize(request_, &response);
        if (absl::IsResourceExhausted(outcome.status)) {
          ++refused_;
          EXPECT_GT(outcome.retry_after, absl::ZeroDuration());
          EXPECT_TRUE(absl::StrContains(outcome.status.message(), "max_text_queue"));
        } else if (outcome.status.ok()) {
          EXPECT_GT(response.token_ids_size(), 1000);
          ++answered_;
        } else {
          ++failed_;
        }
      });
    }
  }
  ~Flood() { Join(); }
  void Join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  void Cancel() { connection_.Cancel(); }
  int refused() const { return refused_; }
  int answered() const { return answered_; }
  int failed() const { return failed_; }

 private:
  Connection connection_;
  const v1::TokenizeRequest request_;
  std::atomic<int> refused_{0}, answered_{0}, failed_{0};
  std::vector<std::thread> threads_;
};

TEST(LongTexts, AreNotInTheWayOfStreams) {
  TestServer server(WithTokenizer());
  auto stub = StubFor(server);
  Flood flood(server, 12, 200000);
  ASSERT_TRUE(Eventually([&] { return flood.answered() > 0; }));
  // A short prompt, and one that is long itself, are through while most of the others still wait.
  v1::GenerateRequest request = Ids({5, 6}, 50);
  EXPECT_TRUE(Generate(stub.get(), request).status.ok());
  request.set_text(LongText(5000).text());
  EXPECT_TRUE(Generate(stub.get(), request).status.ok());
  EXPECT_LT(flood.answered(), 10);
  flood.Join();
  EXPECT_EQ(flood.answered(), 12);
}

TEST(LongTexts, TooManyAreRefused) {
  TestServer::Options options = WithTokenizer();
  options.server.max_text_queue = 1;
  TestServer server(options);
  int answered = 0;
  ASSERT_TRUE(Eventually([&] {
    Flood flood(server, 8, 200000);
    flood.Join();
    EXPECT_EQ(flood.failed(), 0);
    answered += flood.answered();
    return flood.refused() > 0;
  }));
  EXPECT_GT(answered, 0);
}

TEST(LongTexts, WhoHasLeftIsNotWorkedFor) {
  TestServer server(WithTokenizer());
  Flood flood(server, 12, 200000);
  ASSERT_TRUE(Eventually([&] { return flood.answered() > 0; }));
  flood.Cancel();
  flood.Join();
  EXPECT_LT(flood.answered(), 10);
  EXPECT_EQ(flood.answered() + flood.failed(), 12);
  ASSERT_TRUE(Eventually([&] { return server.AccessLines("call=Tokenize") == 12; }));
  EXPECT_GT(server.AccessLines("cancelled before its turn"), 0);
}

TEST(LongTexts, AnAnswerThatNoClientTakesIsRefused) {
  TestServer server(WithTokenizer());
  Connection connection({server.address()});
  v1::DetokenizeRequest request;
  // The longest piece of the vocabulary.
  int longest = 0;
  for (int id = 0; id < server.tokenizer()->num_pieces(); ++id) {
    if (server.tokenizer()->PieceText(id).size() > server.tokenizer()->PieceText(longest).size()) {
      longest = id;
    }
  }
  const size_t piece = server.tokenizer()->PieceText(longest).size();
  for (size_t i = 0; i < (size_t{5} << 20) / piece; ++i) request.add_token_ids(longest);
  v1::DetokenizeResponse text;
  const absl::Status refused = connection.Detokenize(request, &text).status;
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "in pieces")) << refused;
  request.mutable_token_ids()->Truncate(static_cast<int>((size_t{3} << 20) / piece));
  EXPECT_TRUE(connection.Detokenize(request, &text).status.ok());
}

}  // namespace
}  // namespace packrat
