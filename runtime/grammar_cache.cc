#include "runtime/grammar_cache.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
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

int64_t GrammarBytes(int64_t vocab_size) { return 64 * vocab_size + (int64_t{8} << 20); }

std::shared_ptr<const GrammarVocabulary> GrammarCache::Vocabulary() {
  MutexLock lock(&mutex_);
  if (vocabulary_ == nullptr) {
    vocabulary_ = std::make_shared<GrammarVocabulary>(*tokenizer_);
    memory_->AddFixed(static_cast<int64_t>(vocabulary_->bytes()));
  }
  return vocabulary_;
}

void GrammarCache::Drop(std::list<Entry>::iterator entry,
                        std::vector<std::shared_ptr<TokenGrammar>>* dropped) {
  dropped->push_back(std::move(entry->grammar));
  index_.erase(entry->key);
  entries_.erase(entry);
}

absl::StatusOr<std::shared_ptr<GrammarMemory::Part>> GrammarCache::TakeMemory(int64_t bytes) {
  std::vector<std::shared_ptr<TokenGrammar>> dropped;
  MutexLock lock(&mutex_);
  while (true) {
    std::shared_ptr<GrammarMemory::Part> part = GrammarMemory::Join(memory_, bytes);
    if (part != nullptr) return part;
    const auto unused = std::find_if(entries_.rbegin(), entries_.rend(), [](const Entry& entry) {
      return entry.grammar.use_count() == 1;
    });
    if (unused == entries_.rend()) break;
    Drop(std::prev(unused.base()), &dropped);
    dropped.clear();
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      memory_->grammars(), " grammars of requests that wait or run take the ",
      memory_->limit() >> 20, " MiB that there are for them; try again when some are done"));
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
  const std::shared_ptr<const GrammarVocabulary> vocabulary = Vocabulary();
  auto memory = TakeMemory(static_cast<int64_t>(grammar->bytes() + key.size()));
  if (!memory.ok()) return memory.status();
  TokenGrammar::Limits limits;
  limits.memory = *std::move(memory);
  auto made = TokenGrammar::Create(*std::move(grammar), vocabulary, limits);
  if (!made.ok()) return made;
  std::vector<std::shared_ptr<TokenGrammar>> dropped;  // Freed outside the lock.
  MutexLock lock(&mutex_);
  std::shared_ptr<TokenGrammar> known = find();
  if (known != nullptr) return known;
  if (entries_.size() == kGrammars) Drop(std::prev(entries_.end()), &dropped);
  entries_.push_front({key, *made});
  index_[key] = entries_.begin();
  return made;
}

}  // namespace packrat
