// What goes out with every token is written without a tree of JSON or a message's reflection: it
// says the same.
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/http/proto_json.h"
#include "server/openai/json.h"

namespace packrat {
namespace {

std::vector<std::string> Texts() {
  std::vector<std::string> texts = {"", "plain", " a\nb", "\"\\\"", "é€😀", "\xe2\x82", "a\xff\"b"};
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    texts.push_back({'a', c, 'b'});
  }
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (size_t n = random() % 9; n > 0; --n) {
      static const char* const kParts[] = {"é", "\n",   "\"",   "\\", "\t",
                                           "a", "\x7f", "\xe2", "€",  "\r"};
      text += kParts[random() % std::size(kParts)];
    }
    texts.push_back(text);
  }
  return texts;
}

TEST(AnswerText, QuotesAsTheLibrary) {
  for (const std::string& text : Texts()) {
    EXPECT_EQ(openai::JsonText(text), openai::Dump(text)) << text;
  }
}

TEST(AnswerText, WritesMessagesThatAreReadAsTheyWere) {
  v1::GenerateResponse finished;
  finished.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
  finished.set_text("x");
  v1::GenerateResponse logprobs;
  logprobs.add_token_ids(3);
  logprobs.add_logprobs()->set_logprob(-1);
  v1::GenerateResponse scores;
  scores.add_scores()->set_token_id(7);
  std::vector<v1::GenerateResponse> messages = {{}, finished, logprobs, scores};
  for (const std::string text : {"", "plain", " a\n\"b\\", "é€😀\t\x7f<&>"}) {
    for (const int tokens : {0, 1, 3}) {
      for (const int choice : {0, 2}) {
        v1::GenerateResponse& message = messages.emplace_back();
        message.set_text(text);
        for (int i = 0; i < tokens; ++i) message.add_token_ids(i * 1000);
        message.set_choice(choice);
      }
    }
  }
  for (const bool events : {false, true}) {
    const std::unique_ptr<openai::AnswerWriter> writer = MakeMessageWriter(events);
    for (const v1::GenerateResponse& message : messages) {
      std::string written = writer->Add(0, message);
      absl::string_view json = written;
      ASSERT_TRUE(absl::ConsumeSuffix(&json, events ? "\n\n" : "\n")) << written;
      ASSERT_TRUE(!events || absl::ConsumePrefix(&json, "data: ")) << written;
      EXPECT_FALSE(absl::StrContains(json, "\n")) << written;
      v1::GenerateResponse read;
      ASSERT_TRUE(FromJson(json, &read).ok()) << written;
      EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(read, message)) << written;
    }
  }
}

}  // namespace
}  // namespace packrat
