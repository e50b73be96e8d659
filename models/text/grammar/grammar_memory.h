// Memory that all grammars of a server share: what each may take follows from how many there are.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_MEMORY_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_MEMORY_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace packrat {

// Thread-safe. In bytes.
class GrammarMemory {
 public:
  // Of the states and masks of one grammar.
  static constexpr int64_t kLeastShare = 64 << 10, kMostShare = 8 << 20;

  explicit GrammarMemory(int64_t limit) : limit_(limit) {}

  // A grammar's part, which it gives back in the end.
  class Part {
   public:
    Part(std::shared_ptr<GrammarMemory> memory, int64_t fixed)
        : memory_(std::move(memory)), fixed_(fixed) {}
    ~Part() {
      memory_->fixed_ -= fixed_;
      memory_->used_ -= fixed_ + moving_;
      --memory_->parts_;
    }
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;
    // What states and masks may take at present. May be less than it was.
    int64_t Share() const { return memory_->ShareOf(memory_->parts_, memory_->fixed_); }
    // What they take. By one thread at a time.
    void Set(int64_t bytes) { memory_->used_ += bytes - std::exchange(moving_, bytes); }

   private:
    const std::shared_ptr<GrammarMemory> memory_;
    const int64_t fixed_;
    int64_t moving_ = 0;
  };

  // A part for a grammar that takes `fixed` beside its states and masks. Null if there is no room:
  // the least share of each would be more than is left.
  static std::unique_ptr<Part> Join(const std::shared_ptr<GrammarMemory>& memory, int64_t fixed) {
    const int64_t parts = ++memory->parts_, all = memory->fixed_ += fixed;
    memory->used_ += fixed;
    auto part = std::make_unique<Part>(memory, fixed);
    if (all + parts * kLeastShare > memory->limit_) part = nullptr;
    return part;
  }
  // What is there once and for all.
  void AddFixed(int64_t bytes) {
    fixed_ += bytes;
    used_ += bytes;
  }

  int64_t limit() const { return limit_; }
  int64_t used() const { return used_; }
  int64_t grammars() const { return parts_; }

 private:
  int64_t ShareOf(int64_t parts, int64_t fixed) const {
    return std::clamp((limit_ - fixed) / std::max<int64_t>(parts, 1), kLeastShare, kMostShare);
  }

  const int64_t limit_;
  std::atomic<int64_t> fixed_{0}, used_{0}, parts_{0};
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_MEMORY_H_
