// Messages of ours as OpenAI's JSON and events, for tests of these.
#ifndef PACKRAT_TESTS_SERVER_OPENAI_ANSWERS_H_
#define PACKRAT_TESTS_SERVER_OPENAI_ANSWERS_H_

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "server/openai/openai.h"

namespace packrat::openai {

using nlohmann::json;

// Two of its tokens are the halves of a character.
inline const char* const kPieces[] = {"</s>", "<s>", "The",      " rat",
                                      " sat", ".",   "\xe2\x82", "\xac"};

inline const Context& Server() {
  static const Context& context = *new Context{"rat", "fp", 1600000000, 4096,
                                               [](int32_t id) { return std::string(kPieces[id]); }};
  return context;
}

inline v1::GenerateResponse Message(const std::string& text) {
  v1::GenerateResponse message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

inline std::string Recorded(const std::string& name) {
  const std::string path = "tests/server/openai/" + name;
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// An event is its type, or "", and its data, which is JSON or [DONE].
using Events = std::vector<std::pair<std::string, json>>;
inline Events Read(const std::string& stream) {
  Events events;
  for (const absl::string_view block : absl::StrSplit(stream, "\n\n")) {
    if (block.empty()) continue;
    std::string type;
    for (absl::string_view line : absl::StrSplit(block, '\n')) {
      if (absl::ConsumePrefix(&line, "event: ")) type = std::string(line);
      if (!absl::ConsumePrefix(&line, "data: ")) continue;
      events.emplace_back(type, line == "[DONE]" ? json("[DONE]") : json::parse(line));
    }
  }
  EXPECT_TRUE(stream.empty() || absl::EndsWith(stream, "\n\n"));
  return events;
}

class Answer {
 public:
  Answer(Endpoint endpoint, const std::string& body, const Context& context = Server()) {
    absl::StatusOr<Ask> ask = ParseAsk(endpoint, body, context);
    EXPECT_TRUE(ask.ok()) << ask.status();
    writer_ = MakeAnswerWriter(std::move(ask->form), context, "r1", 1700000000);
    written_ = writer_->Begin();
  }
  Answer& Add(const std::string& message, size_t call = 0) {
    written_ += writer_->Add(call, Message(message));
    return *this;
  }
  std::string Stream() { return written_ + writer_->Finish(); }
  json Body() {
    EXPECT_EQ(written_, "");
    return json::parse(writer_->Finish());
  }
  std::string Fail(const absl::Status& status) { return written_ + writer_->Fail(status); }
  const std::string& written() const { return written_; }

 private:
  std::unique_ptr<AnswerWriter> writer_;
  std::string written_;
};

}  // namespace packrat::openai

#endif  // PACKRAT_TESTS_SERVER_OPENAI_ANSWERS_H_
