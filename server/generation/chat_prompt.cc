#include "server/generation/chat_prompt.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/bounds.h"
#include "models/text/chat_template.h"
#include "proto/packrat/v1/inference.pb.h"

namespace packrat {
namespace {

size_t BytesOf(const v1::ChatMessages& chat) {
  size_t bytes =
      chat.tools_json().size() + chat.template_kwargs_json().size() + chat.answer_prefix().size();
  for (const v1::ChatMessage& message : chat.messages()) {
    bytes += message.role().size() + message.content().size() + message.name().size() +
             message.tool_calls_json().size() + message.tool_call_id().size() +
             message.reasoning_content().size();
  }
  return bytes;
}

// What ids stand for.
struct Symbols {
  std::vector<int32_t> all;  // Bytes, and a number beyond them for each special token.
  std::vector<size_t> ends;  // Of each id.
};

Symbols SymbolsOf(const std::vector<int32_t>& ids, const Tokenizer& tokenizer) {
  // Such a tokenizer puts a space before a text, and before what follows a special token: whether
  // it is there says nothing.
  const auto probe = tokenizer.Encode("a", {});
  const bool adds_space =
      probe.ok() && !probe->empty() && absl::StartsWith(tokenizer.PieceText(probe->front()), " ");
  Symbols symbols;
  bool behind_special = true;
  for (const int32_t id : ids) {
    if (tokenizer.IsSpecial(id)) {
      symbols.all.push_back(256 + id);
    } else {
      const std::string piece = tokenizer.PieceText(id);
      const bool skip = adds_space && behind_special && absl::StartsWith(piece, " ");
      for (const char byte : absl::string_view(piece).substr(skip ? 1 : 0)) {
        symbols.all.push_back(static_cast<unsigned char>(byte));
      }
    }
    behind_special = tokenizer.IsSpecial(id);
    symbols.ends.push_back(symbols.all.size());
  }
  return symbols;
}

// Some of the text that begins there, for a message.
std::string Excerpt(const std::vector<int32_t>& symbols, size_t begin, const Tokenizer& tokenizer) {
  std::string text;
  for (size_t i = begin; i < symbols.size() && text.size() < 32; ++i) {
    if (symbols[i] >= 256) {
      text += tokenizer.PieceText(symbols[i] - 256);
    } else {
      text += static_cast<char>(symbols[i]);
    }
  }
  return begin >= symbols.size() ? "its end"
                                 : absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\"");
}

ChatTurn MakeTurn(const v1::ChatMessage& message) {
  ChatTurn turn;
  turn.role = message.role();
  if (message.has_content()) turn.content = message.content();
  if (message.has_name()) turn.name = message.name();
  if (message.has_tool_calls_json()) turn.tool_calls_json = message.tool_calls_json();
  if (message.has_tool_call_id()) turn.tool_call_id = message.tool_call_id();
  if (message.has_reasoning_content()) turn.reasoning_content = message.reasoning_content();
  return turn;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeChat(const v1::ChatMessages& chat,
                                                const Tokenizer& tokenizer, size_t max_bytes,
                                                absl::Time now) {
  const absl::StatusOr<ChatTemplate>& chat_template = tokenizer.chat_template();
  if (!chat_template.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("chat: ", chat_template.status().message(),
                     "; send a prompt as text instead (over HTTP to /v1/completions)"));
  }
  absl::Status status = bounds::kChatMessages.Check("chat.messages", chat.messages_size());
  if (!status.ok()) return status;
  const size_t bytes = BytesOf(chat);
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("chat has ", bytes, " bytes; at most ",
                                                   max_bytes,
                                                   " (max_context tokens of the longest piece)"));
  }
  Conversation conversation;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    status = bounds::kChatRole.Check(absl::StrCat("chat.messages[", i, "].role"),
                                     static_cast<double>(message.role().size()));
    if (!status.ok()) return status;
    conversation.messages.push_back(MakeTurn(message));
  }
  if (chat.has_tools_json()) conversation.tools_json = chat.tools_json();
  if (chat.has_template_kwargs_json()) {
    conversation.template_kwargs_json = chat.template_kwargs_json();
  }
  if (chat.has_add_generation_prompt()) {
    conversation.add_generation_prompt = chat.add_generation_prompt();
  }
  absl::StatusOr<MarkedText> prompt = chat_template->Render(conversation, max_bytes, now);
  if (!prompt.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("chat.", prompt.status().message()));
  }
  prompt->Append(chat.answer_prefix(), MarkedText::kOwn);
  return tokenizer.Encode(*prompt);
}

absl::StatusOr<std::vector<int32_t>> ContinueChat(const v1::ChatMessages& chat,
                                                  const Tokenizer& tokenizer, size_t max_bytes,
                                                  absl::Time now,
                                                  const std::vector<int32_t>& history) {
  const absl::StatusOr<std::vector<int32_t>> prompt = EncodeChat(chat, tokenizer, max_bytes, now);
  if (!prompt.ok()) return prompt;
  const std::vector<int32_t> held = SymbolsOf(history, tokenizer).all;
  const Symbols written = SymbolsOf(*prompt, tokenizer);
  const auto parting =
      std::mismatch(held.begin(), held.end(), written.all.begin(), written.all.end()).first;
  if (parting != held.end()) {
    const size_t at = parting - held.begin();
    return absl::FailedPreconditionError(
        absl::StrCat("chat does not go on from what the session holds: after ", at,
                     " bytes the session has ", Excerpt(held, at, tokenizer),
                     ", and the template writes ", Excerpt(written.all, at, tokenizer),
                     "; send the same messages with the answers as they came, or no session"));
  }
  if (held.empty()) return prompt;
  // The ids from there on; and of one that begins before, the rest of its bytes by themselves.
  const size_t last = std::lower_bound(written.ends.begin(), written.ends.end(), held.size()) -
                      written.ends.begin();
  const std::vector<int32_t> rest(written.all.begin() + held.size(),
                                  written.all.begin() + written.ends[last]);
  std::vector<int32_t> added;
  if (!rest.empty()) {
    Tokenizer::EncodeOptions options;
    options.continues_text = true;
    absl::StatusOr<std::vector<int32_t>> ids =
        tokenizer.Encode(std::string(rest.begin(), rest.end()), options);
    std::string again;
    for (size_t i = 0; ids.ok() && i < ids->size(); ++i) again += tokenizer.PieceText((*ids)[i]);
    if (!ids.ok() || again != std::string(rest.begin(), rest.end())) {
      return absl::FailedPreconditionError(
          "chat does not go on from what the session holds: the session ends inside of a token of "
          "what the template writes; send no session");
    }
    added = *std::move(ids);
  }
  added.insert(added.end(), prompt->begin() + last + 1, prompt->end());
  return added;
}

}  // namespace packrat
