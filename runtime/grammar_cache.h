// Makes grammars of what clients write, and keeps those that were used last.
#ifndef PACKRAT_RUNTIME_GRAMMAR_CACHE_H_
#define PACKRAT_RUNTIME_GRAMMAR_CACHE_H_

#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "models/text/grammar/token_grammar.h"
#include "models/text/tokenizer.h"
#include "runtime/mutex.h"

namespace packrat {

// What describes a grammar.
enum class GrammarNotation { kGbnf, kRegex, kJsonSchema };

// Thread-safe, which the grammars are not: what it returns is for one engine's requests.
class GrammarCache {
 public:
  // Each with its states and masks takes 8 MiB at most, beside what running texts need.
  static constexpr size_t kGrammars = 16;

  // `tokenizer` must outlive it.
  explicit GrammarCache(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  // INVALID_ARGUMENT says what is wrong, and where. Takes up to a tenth of a second where the
  // grammar is new; the first one, for which the tokenizer's pieces are sorted, as much again.
  absl::StatusOr<std::shared_ptr<TokenGrammar>> Get(GrammarNotation notation,
                                                    const std::string& text);

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<TokenGrammar> grammar;
  };
  std::shared_ptr<const TokenTrie> Trie();

  const Tokenizer* const tokenizer_;
  Mutex mutex_;
  std::shared_ptr<const TokenTrie> trie_ ABSL_GUARDED_BY(mutex_);
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // The latest that was used first.
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> index_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_GRAMMAR_CACHE_H_
