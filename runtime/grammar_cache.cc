#include "runtime/grammar_cache.h"

#include "models/text/grammar/gbnf.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/json_schema.h"
#include "models/text/grammar/regex.h"

namespace packrat {
namespace {

absl::StatusOr<GrammarRules> Parse(GrammarNotation notation, const std::string& text) {
  switch (notation) {
    case GrammarNotation::kGbnf:
      return ParseGbnf(text);
    case GrammarNotation::kRegex:
      return ParseRegex(text);
    case GrammarNotation::kJsonSchema:
      return ParseJsonSchema(text);
  }
  return absl::InternalError("no such notation");
}

}  // namespace

std::shared_ptr<const TokenTrie> GrammarCache::Trie() {
  MutexLock lock(&mutex_);
  if (trie_ == nullptr) trie_ = std::make_shared<TokenTrie>(*tokenizer_);
  return trie_;
}

absl::StatusOr<std::shared_ptr<TokenGrammar>> GrammarCache::Get(GrammarNotation notation,
                                                                const std::string& text) {
  const std::string key = static_cast<char>('a' + static_cast<int>(notation)) + text;
  const auto find = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = index_.find(key);
    if (found == index_.end()) return std::shared_ptr<TokenGrammar>();
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->grammar;
  };
  {
    MutexLock lock(&mutex_);
    std::shared_ptr<TokenGrammar> known = find();
    if (known != nullptr) return known;
  }
  // Others go on meanwhile.
  absl::StatusOr<GrammarRules> rules = Parse(notation, text);
  if (!rules.ok()) return rules.status();
  absl::StatusOr<Grammar> grammar = Grammar::Compile(*rules);
  if (!grammar.ok()) return grammar.status();
  auto made = TokenGrammar::Create(*std::move(grammar), Trie());
  if (!made.ok()) return made;
  std::shared_ptr<TokenGrammar> dropped;  // Freed outside the lock.
  MutexLock lock(&mutex_);
  std::shared_ptr<TokenGrammar> known = find();
  if (known != nullptr) return known;
  if (entries_.size() == kGrammars) {
    dropped = std::move(entries_.back().grammar);
    index_.erase(entries_.back().key);
    entries_.pop_back();
  }
  entries_.push_front({key, *made});
  index_[key] = entries_.begin();
  return made;
}

}  // namespace packrat
