// Makes grammars of what clients write, and keeps those that were used last.
#ifndef PACKRAT_RUNTIME_GRAMMAR_CACHE_H_
#define PACKRAT_RUNTIME_GRAMMAR_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "models/text/grammar/grammar_memory.h"
#include "models/text/grammar/token_grammar.h"
#include "models/text/tokenizer.h"
#include "runtime/mutex.h"

namespace packrat {

// What describes a grammar.
enum class GrammarNotation { kGbnf, kRegex, kJsonSchema };

// Bytes that grammars of a server may take together, for a model of so many ids: the tokenizer's
// pieces as they need them, about 60 bytes for each id, and 8 MiB for automata and masks.
int64_t GrammarBytes(int64_t vocab_size);

// Thread-safe, which the grammars are not: what it returns is for one engine's requests.
class GrammarCache {
 public:
  static constexpr size_t kGrammars = 16;  // That are kept when nobody uses them.

  // `tokenizer` must outlive it. `bytes`: of all grammars that it made and somebody still has.
  GrammarCache(const Tokenizer* tokenizer, int64_t bytes)
      : tokenizer_(tokenizer), memory_(std::make_shared<GrammarMemory>(bytes)) {}

  // INVALID_ARGUMENT says what is wrong, and where. RESOURCE_EXHAUSTED: those of other requests
  // take all memory. Takes up to a tenth of a second where the grammar is new; the first one, for
  // which the tokenizer's pieces are sorted, as much again.
  absl::StatusOr<std::shared_ptr<TokenGrammar>> Get(GrammarNotation notation,
                                                    const std::string& text);
  const GrammarMemory& memory() const { return *memory_; }

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<TokenGrammar> grammar;
  };
  std::shared_ptr<const GrammarVocabulary> Vocabulary();
  // A part of the memory; what nobody uses gives way.
  absl::StatusOr<std::shared_ptr<GrammarMemory::Part>> TakeMemory(int64_t bytes);
  void Drop(std::list<Entry>::iterator entry, std::vector<std::shared_ptr<TokenGrammar>>* dropped)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Tokenizer* const tokenizer_;
  const std::shared_ptr<GrammarMemory> memory_;
  Mutex mutex_;
  std::shared_ptr<const GrammarVocabulary> vocabulary_ ABSL_GUARDED_BY(mutex_);
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // The latest that was used first.
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> index_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_GRAMMAR_CACHE_H_
