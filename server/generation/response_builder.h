// Makes the messages of a stream from its Outbox: turns tokens into text as they come, and holds
// back what may still become a stop string. Between messages it holds token ids, and the text of at
// most one token.
#ifndef PACKRAT_SERVER_GENERATION_RESPONSE_BUILDER_H_
#define PACKRAT_SERVER_GENERATION_RESPONSE_BUILDER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/text/tokenizer.h"
#include "runtime/outbox.h"

namespace packrat {

namespace v1 {
class GenerateResponse;
}

class ResponseBuilder {
 public:
  // A message stops growing at this size, with the token that reaches it: a stream that was not
  // read for long must not exceed the 4 MiB that clients accept by default.
  static constexpr size_t kMessageBytes = 1 << 20;
  // Most bytes of a tokenizer's piece. A token has the text of one piece, in which each byte may
  // become a U+FFFD of three bytes, and kMaxLogprobs other pieces: less than 1.5 MiB together.
  static constexpr size_t kMaxPieceBytes = 64 << 10;

  // `tokenizer` may be null: then there is no text. Its pieces have at most kMaxPieceBytes. The
  // text continues `prompt`.
  ResponseBuilder(const Tokenizer* tokenizer, bool skip_special, bool continues_text,
                  const std::vector<int32_t>& prompt = {});

  // Takes everything new.
  void Add(Outbox::Update update);

  // Moves what may be sent now into `message`. False if there is nothing. Call it until it returns
  // false.
  bool Build(v1::GenerateResponse* message);

  // Everything that will ever be sent has been; the outbox is closed.
  bool done() const { return finish_.has_value() && done_; }
  const std::optional<Finish>& finish() const { return finish_; }
  // Of the scores that messages have carried.
  struct Score {
    int tokens = 0;
    double logprob = 0;
    bool greedy = true;
  };
  const Score& score() const { return score_; }

 private:
  void DecodeNext();
  // Both return about how many bytes the message grows by.
  size_t EmitScore(v1::GenerateResponse* message);
  size_t EmitToken(v1::GenerateResponse* message);

  const Tokenizer* const tokenizer_;
  std::optional<TextDecoder> decoder_;   // Absent without a tokenizer.
  std::vector<int32_t> tokens_;          // From next_ on: not decoded yet.
  std::vector<TokenLogprobs> logprobs_;  // Parallel to tokens_, or empty.
  size_t next_ = 0;
  std::vector<TokenScore> scores_;  // From next_score_ on: not sent.
  size_t next_score_ = 0;
  Score score_;
  bool held_ = false;      // tokens_[next_] is decoded and not sent.
  std::string held_text_;  // The part of its text that is not sent yet.
  size_t text_bytes_ = 0;  // Of all decoded tokens, held_text_ included.
  size_t safe_bytes_ = 0;
  std::optional<Finish> finish_;
  bool done_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_RESPONSE_BUILDER_H_
