// Turns the messages of a chat into the token ids of a prompt.
#ifndef PACKRAT_SERVER_GENERATION_CHAT_PROMPT_H_
#define PACKRAT_SERVER_GENERATION_CHAT_PROMPT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "models/text/tokenizer.h"

namespace packrat {

namespace v1 {
class ChatMessages;
}

// `max_bytes`: of all texts in the messages, and of the prompt that the template makes of them.
// `now`: for templates that tell the model what day it is. INVALID_ARGUMENT names the field, as in
// "chat.messages[3].role", or has the words with which the template refuses the messages.
// FAILED_PRECONDITION: the model has no template, or one that cannot be read.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const v1::ChatMessages& chat,
                                                const Tokenizer& tokenizer, size_t max_bytes,
                                                absl::Time now);

// What the same chat adds to `history`, the ids of a session that are not empty: the prompt of all
// messages must begin with the text that they stand for, special tokens in the same places. The ids
// may differ: an answer was sampled token by token, and a template's text is tokenized as a whole.
// FAILED_PRECONDITION says where they part.
absl::StatusOr<std::vector<int32_t>> ContinueChat(const v1::ChatMessages& chat,
                                                  const Tokenizer& tokenizer, size_t max_bytes,
                                                  absl::Time now,
                                                  const std::vector<int32_t>& history);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_CHAT_PROMPT_H_
