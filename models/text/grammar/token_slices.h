// Sets of tokens that grammars mostly allow or refuse together: those whose text is so many plain
// characters of a string, or so many letters. Where that is known of all of them, a walk over the
// other tokens finds the rest of a mask.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_SLICES_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_SLICES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "models/text/grammar/automaton.h"
#include "models/text/grammar/character_set.h"
#include "models/text/grammar/token_trie.h"

namespace packrat {

// Never changes; for any number of threads, each with an automaton and a Scratch of its own.
class TokenSlices {
 public:
  // What is known without a walk: of all tokens but `rest` it is in the masks, each as a token
  // grammar's, whether they can come.
  struct Slice {
    const std::vector<uint32_t>* masks[2];  // The second may be null.
    const TokenTrie::Tree* rest;
  };
  struct Scratch {
    std::vector<GrammarAutomaton::State> now, next, at, then;
    int64_t work = 0;   // What was looked at, beside what the automaton counts.
    int64_t limit = 0;  // Of both: then Find() ends at once, with none.
  };

  explicit TokenSlices(const TokenTrie& trie);

  // Of what comes after `state`; none if nothing is known. The automaton may get new states.
  std::optional<Slice> Find(GrammarAutomaton::State state, GrammarAutomaton* automaton,
                            Scratch* scratch) const;
  size_t bytes() const;  // Of memory.

 private:
  // Longer tokens belong to `rest`: there are few.
  static constexpr int kMostCharacters = 16;
  // Tokens of at most so many characters, the last of which need not be whole.
  using Masks = std::array<std::vector<uint32_t>, kMostCharacters + 1>;
  struct Alphabet {
    std::vector<ByteRanges> forms;  // Of its characters.
    bool spaced;                    // A space may come before them.
    Masks plain, with_space;        // The space is not counted.
    TokenTrie::Tree rest;           // All other tokens.
  };
  std::vector<Alphabet> alphabets_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_SLICES_H_
