// A grammar over tokens: which may come next, and where a text stands.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_GRAMMAR_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_GRAMMAR_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/text/grammar/automaton.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/token_trie.h"

namespace packrat {

class GrammarPosition;

// What all texts of one grammar share: the automaton, and the masks of its states. Create() is
// for any thread; after it, all positions of one grammar are for one thread at a time.
class TokenGrammar {
 public:
  struct Limits {
    // Of states and of masks. What is beyond is forgotten, but for what positions need, and found
    // anew when it is asked for.
    size_t state_bytes = 4 << 20;
    size_t mask_bytes = 4 << 20;
    // Of finding one mask, for each node of the trie: what is looked at, about 14 inside of a JSON
    // string. Where that does not suffice (the grammar is very ambiguous) the mask lacks some
    // tokens, but none of one byte.
    int work_per_node = 32;
  };

  // INVALID_ARGUMENT if no token may begin a text, or if the beginning is too ambiguous. Finds the
  // first mask, so that whoever generates need not.
  static absl::StatusOr<std::shared_ptr<TokenGrammar>> Create(Grammar grammar,
                                                              std::shared_ptr<const TokenTrie> trie,
                                                              const Limits& limits);
  static absl::StatusOr<std::shared_ptr<TokenGrammar>> Create(
      Grammar grammar, std::shared_ptr<const TokenTrie> trie) {
    return Create(std::move(grammar), std::move(trie), Limits());
  }

  int mask_words() const { return (trie_->num_ids() + 31) / 32; }
  int64_t masks_found() const { return masks_found_; }  // That were not there.
  size_t bytes() const;                                 // Of states and masks.

 private:
  friend class GrammarPosition;
  using State = GrammarAutomaton::State;
  using Mask = std::vector<uint32_t>;
  struct Entry {
    State state;
    Mask mask;
  };

  TokenGrammar(Grammar grammar, std::shared_ptr<const TokenTrie> trie, const Limits& limits);
  // Valid until the next call.
  const Mask& MaskOf(State state);
  void FindMask(State state, Mask* mask);
  State After(State state, int32_t token);
  void ForgetIfLarge();

  const std::shared_ptr<const TokenTrie> trie_;
  const Limits limits_;
  const size_t max_masks_;
  GrammarAutomaton automaton_;
  std::vector<GrammarPosition*> positions_;
  size_t forget_at_;        // Bytes of the automaton.
  std::list<Entry> masks_;  // The latest that was used first.
  absl::flat_hash_map<State, std::list<Entry>::iterator> mask_index_;
  std::vector<State> path_;  // Of a walk over the trie.
  int64_t masks_found_ = 0;
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
  // forgotten.
  void FindMask(absl::Span<const int32_t> end_ids);
  // Bit i of word i / 32: token i. Of the last FindMask().
  absl::Span<const uint32_t> mask() const { return mask_; }

 private:
  friend class TokenGrammar;
  const std::shared_ptr<TokenGrammar> grammar_;
  GrammarAutomaton::State state_;
  size_t number_;  // Among the grammar's positions.
  std::vector<uint32_t> mask_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_GRAMMAR_H_
