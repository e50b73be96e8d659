// render DIR: for every line of standard input, a conversation in JSON, what the chat template of
// the model in DIR makes of it, or why it refuses it. On the day of
// tests/data/chat_templates/expect.py.
#include <iostream>
#include <string>

#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "models/text/tokenizer.h"
#include "tests/models/conversation.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto config = packrat::LoadTokenizerConfig(argv[1]);
  if (!config.ok()) return 2;
  const auto chat = packrat::ChatTemplate::Load(argv[1], *config);
  const absl::Time now =
      absl::FromCivil(absl::CivilSecond(2024, 2, 5, 6, 7, 8), absl::LocalTimeZone());
  const auto tokenizer = packrat::Tokenizer::Load(argv[1], 1 << 22);
  for (std::string line; std::getline(std::cin, line);) {
    const auto conversation = packrat::ToConversation(nlohmann::ordered_json::parse(line));
    const auto text = chat.ok() ? chat->Render(conversation, 1 << 20, now) : chat.status();
    nlohmann::ordered_json answer;
    if (text.ok()) {
      answer["text"] = text->text();
      if (tokenizer.ok()) answer["ids"] = (*tokenizer)->Encode(*text).value();
    } else {
      answer["error"] = std::string(text.status().message());
    }
    std::cout << answer.dump() << "\n";
  }
  return 0;
}
