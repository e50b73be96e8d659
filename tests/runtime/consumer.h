// The other end of a request in tests: makes it and collects what comes.
#ifndef PACKRAT_TESTS_RUNTIME_CONSUMER_H_
#define PACKRAT_TESTS_RUNTIME_CONSUMER_H_

#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "runtime/outbox.h"
#include "runtime/request.h"

namespace packrat {

struct Consumer {
  // Greedy, without end ids, unless changed.
  Request Make(uint64_t id, std::vector<int32_t> prompt, int max_tokens) {
    Request request;
    request.id = id;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stop.max_tokens = max_tokens;
    request.stop.ignore_eos = true;
    request.outbox = outbox;
    return request;
  }

  // Takes what is there. True if there was something.
  bool Poll() {
    Outbox::Update update;
    if (!outbox->Take(&update)) return false;
    admitted = admitted || update.admitted;
    tokens.insert(tokens.end(), update.tokens.begin(), update.tokens.end());
    logprobs.insert(logprobs.end(), update.logprobs.begin(), update.logprobs.end());
    std::move(update.scores.begin(), update.scores.end(), std::back_inserter(scores));
    safe_text_bytes = update.safe_text_bytes;
    if (update.finish.has_value()) finish = update.finish;
    return true;
  }

  std::shared_ptr<Outbox> outbox = std::make_shared<Outbox>(nullptr);
  bool admitted = false;
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenScore> scores;
  size_t safe_text_bytes = 0;
  std::optional<Finish> finish;
};

// Tokens that are neither end ids nor make the fake model go bad.
inline std::vector<int32_t> RandomPrompt(std::mt19937_64* random, int size) {
  std::vector<int32_t> prompt(size);
  for (int32_t& token : prompt) token = 3 + static_cast<int32_t>((*random)() % 80);
  return prompt;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_CONSUMER_H_
