#include "server/openai/answer_parts.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/check.h"
#include "models/text/utf8.h"

namespace packrat::openai {
namespace {

OrderedJson BytesOf(absl::string_view bytes) {
  OrderedJson list = OrderedJson::array();
  for (const char byte : bytes) list.push_back(static_cast<unsigned char>(byte));
  return list;
}

}  // namespace

const char* FinishJson(v1::FinishReason reason) {
  return reason == v1::FINISH_REASON_LENGTH ? "\"length\"" : "\"stop\"";
}

void UsageSum::Add(const v1::GenerateResponse& last) {
  const v1::Usage& usage = last.finished().usage();
  completion += usage.completion_tokens();
  if (last.choice() != 0) return;
  prompt += usage.prompt_tokens();
  cached += usage.cached_tokens();
}

OrderedJson UsageSum::Json() const {
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

std::string TokenNames::Shown(int32_t id, absl::string_view bytes) const {
  if (as_ids_) return absl::StrCat("token_id:", id);
  std::string text(bytes);
  if (FirstInvalidUtf8(text) == text.size()) return text;
  std::string escaped = "bytes:";
  for (const char byte : bytes) {
    absl::StrAppendFormat(&escaped, "\\x%02x", static_cast<unsigned char>(byte));
  }
  return escaped;
}

OrderedJson ChatLogprob(const TokenNames& names, int32_t id, const v1::TokenLogprobs& logprobs,
                        int most) {
  const std::string bytes = names.Bytes(id);
  OrderedJson top = OrderedJson::array();
  for (int i = 0; i < std::min(most, logprobs.top_size()); ++i) {
    const v1::TopLogprob& one = logprobs.top(i);
    top.push_back(
        {{"token", one.piece()}, {"logprob", one.logprob()}, {"bytes", BytesOf(one.piece())}});
  }
  return {{"token", bytes},
          {"logprob", logprobs.logprob()},
          {"bytes", BytesOf(bytes)},
          {"top_logprobs", std::move(top)}};
}

ChoiceText::ChoiceText(const AnswerForm& form, const Context& context) {
  if (form.tools.empty()) return;
  reader_.emplace(*context.tool_format, form.tools, form.forced_call);
  one_call_ = form.one_call;
}

std::vector<ToolCallReader::Piece> ChoiceText::Add(const v1::GenerateResponse& message) {
  std::vector<ToolCallReader::Piece> pieces;
  if (!reader_.has_value()) {
    if (!message.text().empty()) pieces.push_back({-1, "", message.text()});
    return pieces;
  }
  pieces = reader_->Push(message.text());
  if (message.has_finished()) {
    for (ToolCallReader::Piece& piece : reader_->Finish()) pieces.push_back(std::move(piece));
  }
  if (one_call_) {
    pieces.erase(std::remove_if(pieces.begin(), pieces.end(),
                                [](const ToolCallReader::Piece& piece) { return piece.call > 0; }),
                 pieces.end());
  }
  for (const ToolCallReader::Piece& piece : pieces) has_calls_ |= piece.call >= 0;
  return pieces;
}

std::string CallId(absl::string_view id, int64_t now, int choice, int call) {
  static constexpr char kDigits[] =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  uint64_t hash = 14695981039346656037u;  // FNV-1a.
  for (const char c : absl::StrCat(id, "/", now, "/", choice, "/", call)) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  }
  std::string name;
  for (int i = 0; i < 9; ++i, hash /= 62) name += kDigits[hash % 62];
  return name;
}

size_t CountCharacters(absl::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; });
}

std::string Event(absl::string_view json) { return absl::StrCat(kEventStart, json, kEventEnd); }

std::string AnswerHead(const Context& context, absl::string_view id, absl::string_view object,
                       int64_t now) {
  const OrderedJson fingerprint =
      context.fingerprint.empty() ? OrderedJson() : OrderedJson(context.fingerprint);
  std::string head = Dump({{"id", std::string(id)},
                           {"object", std::string(object)},
                           {"created", now},
                           {"model", context.model},
                           {"system_fingerprint", fingerprint}});
  head.back() = ',';  // The object goes on.
  return head;
}

std::unique_ptr<AnswerWriter> MakeAnswerWriter(AnswerForm form, const Context& context,
                                               absl::string_view id, int64_t now) {
  switch (form.endpoint) {
    case Endpoint::kCompletions:
      return MakeCompletionWriter(std::move(form), context, id, now);
    case Endpoint::kChat:
      return MakeChatWriter(std::move(form), context, id, now);
    case Endpoint::kResponses:
      break;
  }
  return MakeResponseWriter(std::move(form), context, id, now);
}

}  // namespace packrat::openai
