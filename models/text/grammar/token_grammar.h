// A grammar over tokens: which may come next, and where a text stands.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_GRAMMAR_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_GRAMMAR_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/text/grammar/automaton.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/grammar_memory.h"
#include "models/text/grammar/token_slices.h"
#include "models/text/grammar/token_trie.h"
#include "models/text/tokenizer.h"

namespace packrat {

class GrammarPosition;

// What grammars need of a tokenizer.
struct GrammarVocabulary {
  explicit GrammarVocabulary(const Tokenizer& tokenizer) : trie(tokenizer), slices(trie) {}
  // `pieces`: by id; those that are empty never come.
  explicit GrammarVocabulary(const std::vector<std::string>& pieces) : trie(pieces), slices(trie) {}
  size_t bytes() const { return trie.bytes() + slices.bytes(); }
  const TokenTrie trie;
  const TokenSlices slices;
};

// What all texts of one grammar share: the automaton, and the masks of its states. Create() is
// for any thread; after it, all positions of one grammar are for one thread at a time.
class TokenGrammar {
 public:
  struct Limits {
    // Of states and of masks. What is beyond is forgotten, but for what positions need, and found
    // anew when it is asked for.
    size_t state_bytes = 4 << 20;
    size_t mask_bytes = 4 << 20;
    // Of finding one mask: what is looked at to find states that nobody has been in, one to two
    // milliseconds. Inside of a JSON string that is new it takes some 3,000.
    int64_t mask_work = 200000;
    // What it counts as, where grammars share memory: then less may be kept than above.
    std::shared_ptr<GrammarMemory::Part> memory;
  };

  // INVALID_ARGUMENT if no token may begin a text, or if the beginning is too ambiguous. Finds the
  // first mask, so that whoever generates need not.
  static absl::StatusOr<std::shared_ptr<TokenGrammar>> Create(
      Grammar grammar, std::shared_ptr<const GrammarVocabulary> vocabulary, const Limits& limits);
  static absl::StatusOr<std::shared_ptr<TokenGrammar>> Create(
      Grammar grammar, std::shared_ptr<const GrammarVocabulary> vocabulary) {
    return Create(std::move(grammar), std::move(vocabulary), Limits());
  }

  int mask_words() const { return (trie().num_ids() + 31) / 32; }
  int64_t masks_found() const { return masks_found_; }  // That were not there.
  // Done so far: things that were looked at, each a few nanoseconds.
  int64_t work() const { return automaton_.work() + scratch_.work + walked_; }
  int64_t walked() const { return walked_; }  // Of that, nodes of the trie.
  size_t bytes() const;                       // Of states, masks and what positions hold.

 private:
  friend class GrammarPosition;
  using State = GrammarAutomaton::State;
  using Mask = std::vector<uint32_t>;
  enum class Problem { kNone, kTooAmbiguous, kTooMuchWork };
  struct Entry {
    State state;
    Problem problem;  // Then the mask is not whole.
    Mask mask;
  };

  TokenGrammar(Grammar grammar, std::shared_ptr<const GrammarVocabulary> vocabulary,
               const Limits& limits);
  const TokenTrie& trie() const { return vocabulary_->trie; }
  // Valid until the next call.
  const Entry& MaskOf(State state);
  Problem FindMask(State state, Mask* mask);
  State After(State state, int32_t token);
  // What states and masks may take at present.
  size_t StateBytes() const;
  size_t MaxMasks() const;
  void ForgetIfLarge();

  const std::shared_ptr<const GrammarVocabulary> vocabulary_;
  const Limits limits_;
  GrammarAutomaton automaton_;
  std::vector<GrammarPosition*> positions_;
  size_t forget_at_ = 0;    // Bytes of the automaton, where positions need as many.
  std::list<Entry> masks_;  // The latest that was used first.
  absl::flat_hash_map<State, std::list<Entry>::iterator> mask_index_;
  std::vector<State> path_;  // Of a walk over the trie.
  TokenSlices::Scratch scratch_;
  int64_t masks_found_ = 0, walked_ = 0;
};

// Where one text stands.
class GrammarPosition {
 public:
  explicit GrammarPosition(std::shared_ptr<TokenGrammar> grammar);
  ~GrammarPosition();
  GrammarPosition(const GrammarPosition&) = delete;
  GrammarPosition& operator=(const GrammarPosition&) = delete;

  // The text goes on with a token that its mask allows.
  void Accept(int32_t token);
  // Whether the text may end here, and whether it must.
  bool may_end() const { return grammar_->automaton_.accepts(state_); }
  bool must_end() const { return !grammar_->automaton_.goes_on(state_); }

  // Looks up which tokens may come next. `end_ids`, whatever their text is, may come where the text
  // may end. Allocates only where no text of the grammar has stood here before, or the mask was
  // forgotten. INVALID_ARGUMENT: the grammar is too ambiguous to be followed from here.
  absl::Status FindMask(absl::Span<const int32_t> end_ids);
  // Whether it was found since the last Accept().
  bool has_mask() const { return has_mask_; }
  // The grammar's, as TokenGrammar::work().
  int64_t work() const { return grammar_->work(); }
  // Bit i of word i / 32: token i. Of the last FindMask().
  absl::Span<const uint32_t> mask() const { return mask_; }

 private:
  friend class TokenGrammar;
  const std::shared_ptr<TokenGrammar> grammar_;
  GrammarAutomaton::State state_;
  size_t number_;  // Among the grammar's positions.
  std::vector<uint32_t> mask_;
  bool has_mask_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_GRAMMAR_H_
