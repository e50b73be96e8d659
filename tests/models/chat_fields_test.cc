// What a chat template is given of a client's fields, where they are large or deep.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "models/text/chat_template.h"
#include "models/text/tokenizer_config.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

Conversation Hello() {
  Conversation conversation;
  conversation.messages.push_back({"user", "hi", {}, {}, {}});
  return conversation;
}

std::string Said(const TempDir& dir, const Conversation& conversation) {
  const auto config = LoadTokenizerConfig(dir.path());
  if (!config.ok()) return std::string(config.status().message());
  const auto chat = ChatTemplate::Load(dir.path(), *config);
  if (!chat.ok()) return std::string(chat.status().message());
  const auto rendered = chat->Render(conversation, 1 << 20, absl::UnixEpoch());
  return rendered.ok() ? rendered->text() : std::string(rendered.status().message());
}

TEST(ChatFields, FieldsAreAsDeepAsValuesMayBe) {
  const TempDir dir;
  dir.Write("chat_template.jinja", "{% set all = [messages, tools] %}{{ all | tojson | length }}");
  const auto deep = [](int levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  Conversation conversation = Hello();
  for (int levels : {60, 61}) {
    const bool fits = levels == 60;
    conversation.tools_json = deep(levels);
    conversation.messages[0].tool_calls_json = fits ? deep(levels) : "[]";
    const std::string said = Said(dir, conversation);
    EXPECT_EQ(said.find("deep") == said.npos, fits) << said;
  }
}

// Looking for each among all before it would take hours.
TEST(ChatFields, AMillionKeysTakeNoTime) {
  const TempDir dir;
  dir.Write("chat_template.jinja", "{{ (tools or [k]) | length }}");
  std::string keys = "\"k\": 1";
  for (int i = 0; i < 1000000; ++i) absl::StrAppend(&keys, ",\"", i, "\":1");
  Conversation conversation = Hello();
  conversation.tools_json = absl::StrCat("[{", keys, "}]");
  EXPECT_EQ(Said(dir, conversation), "tools_json: is too large");
  conversation = Hello();
  conversation.messages[0].tool_calls_json = absl::StrCat("[{", keys, "}]");
  EXPECT_EQ(Said(dir, conversation), "messages[0].tool_calls_json: is too large");
  // Fewer are not too large, and each of them is a variable.
  keys = "\"k\": 1";
  for (int i = 0; i < 500000; ++i) absl::StrAppend(&keys, ",\"", i, "\":1");
  conversation = Hello();
  conversation.template_kwargs_json = absl::StrCat("{", keys, "}");
  EXPECT_EQ(Said(dir, conversation), "1");
}

}  // namespace
}  // namespace packrat
