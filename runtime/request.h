// What a caller asks of the engine. The range of every field is in models/bounds.h, under its name
// here; validate.h checks them all. What comes back is in outbox.h.
#ifndef PACKRAT_RUNTIME_REQUEST_H_
#define PACKRAT_RUNTIME_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "models/batch.h"
#include "runtime/text_dials.h"
#include "runtime/text_end.h"

namespace packrat {

class Outbox;
class TokenGrammar;

// How a token is drawn. A token is a function of the logits, the seed and its position alone.
// Order: bias and bans, penalties, temperature, top-k, top-p, min-p.
struct SamplingParams {
  float temperature = 1.0f;                           // 0: greedy.
  int top_k = 0;                                      // 0: off.
  float top_p = 1.0f;                                 // 1: off.
  float min_p = 0.0f;                                 // Drops tokens below min_p * p(best).
  float repetition_penalty = 1.0f;                    // On prompt and generated tokens. 1: off.
  float presence_penalty = 0.0f;                      // On generated tokens. 0: off.
  float frequency_penalty = 0.0f;                     // On generated tokens. 0: off.
  std::vector<std::pair<int32_t, float>> logit_bias;  // (id, bias); ids distinct.
  std::vector<int32_t> allowed_ids;                   // Empty: all.
  std::vector<int32_t> banned_ids;
  uint64_t seed = 0;
  std::optional<int> num_logprobs;  // The chosen token's, and those of so many best.
};

// Where the tokens end.
struct StopParams {
  std::vector<int32_t> ids;  // Beside the model's end ids.
  // The first so many tokens are no end or stop ids, and a stop string that they complete does not
  // count.
  int min_tokens = 0;
  int max_tokens = 256;
  bool ignore_eos = false;  // The model's end ids do not end the text.
};

// What has to do with the text of the tokens: how they become text, which is
// TextDecoder(tokenizer, skip_special_tokens, continues_text), and the strings in it that end it.
// Whoever shows the text decodes it the same way, so that safe_text_bytes counts the same bytes.
struct TextParams {
  std::vector<std::string> stop_strings;  // Never shown, not even a part of one.
  bool skip_special_tokens = true;
  bool continues_text = true;
};

// How a request uses the states that are kept of texts (prefix_cache.h). What it gets is the same
// with and without.
struct CacheParams {
  bool use = true;      // False: it begins from nothing and leaves nothing behind.
  std::string salt;     // Shares states with requests of the same tenant and salt only.
  uint64_t origin = 0;  // See StateSpace.
  // Above 0: the state at its end is kept longer than others (prefix_cache.h).
  int importance = 0;
  TurnEnds ends;  // Of importance: whose state that is.
  // A snapshot is made after so many tokens of the prompt, for others that begin like it; 0: where
  // it seems worth it.
  int snapshot_at = 0;
};

// What decides whether two texts have the same state: whose they are, and what states depend on
// beside the tokens.
struct StateSpace {
  std::string tenant;
  std::string salt;
  SolverOptions solver;
  TextDials dials;
  // Not 0: of a session whose state a client has brought, and whoever has the bytes could forge it.
  // Drawn by the server, so that no other text goes on from such a state.
  uint64_t origin = 0;
  // No two spaces have the same.
  std::string Key() const;
  static uint64_t OriginOf(const std::string& key);
};

struct Request {
  uint64_t id = 0;  // Unique; names the request in Cancel().
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  StopParams stop;
  TextParams text;
  // The output is a text of this grammar, or the beginning of one where it is ended before: by
  // max_tokens, a stop string, or a stop id that its text may end with. Null: any.
  std::shared_ptr<TokenGrammar> grammar;
  SolverOptions solver;
  // Each part's is coarser than the one before it (CheckCoarser()). The first has kBlockTokens at
  // least, and the last at least one token of the prompt that is computed.
  TextDials dials;
  // The tokens of the prompt from this one on are scored: see TokenScore in outbox.h, with
  // sampling.num_logprobs of the best tokens. Then max_tokens may be 0: nothing is generated.
  std::optional<int> score_from;
  CacheParams cache;
  int priority = 0;          // Higher runs first, but waiting counts: see scheduler.h.
  std::string tenant;        // Who takes turns with the others; all that is empty is one.
  double tenant_weight = 1;  // Its share beside that of others. Above 0.
  absl::Time deadline = absl::InfiniteFuture();  // By the clock of Engine::Step().
  std::shared_ptr<Outbox> outbox;
};

// Where its states are kept.
StateSpace SpaceOf(const Request& request);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_REQUEST_H_
