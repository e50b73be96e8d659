// A request inside the engine: what it asked for, what it holds, how far it has come.
#ifndef PACKRAT_RUNTIME_SEQUENCE_H_
#define PACKRAT_RUNTIME_SEQUENCE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "models/batch.h"
#include "models/text/grammar/token_grammar.h"
#include "models/text/tokenizer.h"
#include "runtime/outbox.h"
#include "runtime/prefix_cache.h"
#include "runtime/request.h"
#include "runtime/sampling_state.h"
#include "runtime/scheduler.h"
#include "runtime/sequence_state.h"
#include "runtime/state_pool.h"
#include "runtime/stop_matcher.h"
#include "runtime/validate.h"

namespace packrat {

class Sequence {
 public:
  // On the caller's thread: prepares what the request brought, and takes no memory for what it only
  // claims. `request` is valid.
  Sequence(Request request, const RequestLimits& limits, const Tokenizer* tokenizer,
           const StateLayout& layout, absl::Time now);

  // Decides where it begins: in the last part of its text, of those with dials of their own
  // (TextDials), of whose beginning a state is kept; else in the first.
  void ChoosePart(PrefixCache* cache);
  // Whether it has to begin in an earlier part than was decided, since that state has gone. need()
  // and prompt_left() have then changed.
  bool LosesPart(PrefixCache* cache);
  // Whether it has come to the end of such a part, and goes on with GoCoarser().
  bool between_parts() const {
    return part_ + 1 < request_.dials.num_parts() && state_.holds_parts() &&
           state_.position() == request_.dials.finer[part_].end;
  }
  bool went_coarser() const { return part_ > 0; }  // Or began behind that.
  // What the lists of its rows in one step take at most (SamplingListBytes()).
  size_t list_bytes() const { return list_bytes_; }
  // Its state becomes one of the next part's dial. It is parked then, until Unpark() or, where the
  // pool has room at once, TakeBack(). Errors as of Park().
  absl::Status GoCoarser(const ModelConfig& config, StatePool* pool, absl::Time now);
  bool TakeBack(StatePool* pool);

  // Whose state on the disk the prompt begins with, if there is none as long nearer by; null: there
  // is none, or it has been asked for often enough.
  PrefixCache::Node* StateToFetch(PrefixCache* cache);
  // It begins with what is near by.
  void FetchNoMore() { fetches_left_ = 0; }

  // Takes the memory that the text needs, and the parts that need() names, with the help of the
  // cache (null: there is none); a slot more only if `places` are left. Takes no part if it throws
  // std::bad_alloc.
  void Admit(StatePool* pool, PrefixCache* cache, int places, absl::Time now);

  // Its parts leave the pool as bytes of the process, until it goes on; see SequenceState. What it
  // has started must have come.
  absl::Status Park(StatePool* pool, absl::Time now);
  void Unpark(StatePool* pool, absl::Time now);
  bool parked() const { return state_.parked(); }
  absl::Time parked_at() const { return parked_at_; }
  // At which level the scheduler has let it in, for the first time or once more.
  void SetLevel(int64_t level) {
    level_ = level;
    entered_at_ = state_.position();
  }

  // Of a piece of so many tokens that was planned before it was known where the text begins: how
  // many to take of it.
  int PieceTokens(int planned) const;
  // Puts the next span of the text into the step that is being built: a decoding token or
  // `num_tokens` of the prompt. Appends its tokens, and a row for each that it scores and for one
  // that it samples, which is valid until Accept(). From here on the sequence counts as being where
  // the step will bring it.
  Span StartSpan(int num_tokens, StatePool* pool, std::vector<int32_t>* tokens,
                 std::vector<SamplingRow>* rows);
  // Whether a snapshot is to be made before the next span, of so many tokens. `share_slot`: as
  // Snap() will have it.
  bool SnapshotDue(int num_tokens, bool share_slot) const;
  // Makes it, if it has not been made yet and there is room. `share_slot`: see SequenceState.
  void Snap(bool share_slot, StatePool* pool, PrefixCache* cache);
  // Gives back the parts, if they were taken; with `keep` to the cache, if that is worth it.
  void Release(bool keep, StatePool* pool, PrefixCache* cache);
  // It has gone bad: drops what it has left, and the states that it may have begun with.
  void DropKept(PrefixCache* cache) const;
  // Whether the next span needs more of a sampled token that has not come yet than its place.
  bool needs_last_token() const {
    return awaited_ > 0 && (sampling_.depends_on_text() || request_.grammar != nullptr);
  }
  // Whether it follows a grammar, and which tokens that allows next is not known yet: FindMask()
  // then comes before StartSpan(). Adds the work that it takes (TokenGrammar::work()).
  // INVALID_ARGUMENT: the grammar cannot be followed from here.
  bool needs_mask() const { return position_.has_value() && !position_->has_mask(); }
  absl::Status FindMask(int64_t* work);
  // The results of the earliest span that was started, and was not read yet, are there.
  void ReadSpan(const SolverStats& solved) {
    --unread_;
    if (!finished_) usage_.solver += solved;
  }
  // Whether all that was started has been read.
  bool all_read() const { return unread_ == 0; }

  // Why nothing was left to sample.
  absl::Status NothingLeft() const;
  bool wants_logprobs() const { return request_.sampling.num_logprobs.has_value(); }
  // Takes the earliest token that is awaited: emits it, unless it is an end or stop id. The reason
  // if the text ends; what is still awaited then comes to nothing.
  std::optional<FinishReason> Accept(int32_t token, std::optional<TokenLogprobs> logprobs,
                                     absl::Time now);

  // Takes the score of the prompt's next token. The reason if the request ends with it.
  std::optional<FinishReason> AcceptScore(TokenScore score);

  // Closes the outbox. The parts and bytes must have been given back.
  void Finish(FinishReason reason, absl::Status status, absl::Time now);

  // `arrival`: its number in the order of arrival. `now`: the engine's time, which may be a little
  // behind that of submission; from here on all times are the engine's, so that no duration is
  // negative. `tenant`: its number in Tenants.
  WaitingItem AsWaiting(uint64_t arrival, absl::Time now, int tenant);
  // It was parked, in its old place in the order of arrival.
  WaitingItem AsWaitingParked() const;
  // Without what it frees.
  RunningItem AsRunning() const;

  uint64_t id() const { return request_.id; }
  bool admitted() const { return admitted_; }
  bool finished() const { return finished_; }
  const Usage& usage() const { return usage_; }
  // When its latest token came; before the first one, when it was submitted.
  absl::Time last_progress() const { return last_progress_; }
  const Request& request() const { return request_; }
  int tenant() const { return tenant_; }  // -1: it has not reached the queue yet.
  // What of that which its tenant was charged with at admission has not been needed.
  int64_t unused() const;
  // It is not to be queued before `leader` has passed its cache.snapshot_at, or is over.
  void Follow(std::shared_ptr<Sequence> leader) {
    in_group_ = leader->in_group_ = true;
    leader_ = std::move(leader);
  }
  bool in_group() const { return in_group_; }
  bool follows() const { return leader_ != nullptr; }  // It has not been queued.
  bool MustWait() const {
    return leader_ != nullptr && !leader_->finished() &&
           leader_->state_.position() <= leader_->request_.cache.snapshot_at;
  }
  bool decoding() const { return PromptLeft() == 0; }
  const PartCounts& need() const { return needs_[part_]; }
  int prompt_left() const { return PieceLeft(); }
  const std::shared_ptr<Outbox>& outbox() const { return request_.outbox; }
  const SequenceState& state() const { return state_; }

 private:
  int prompt_tokens() const { return usage_.prompt_tokens; }
  int PromptLeft() const;
  // To the prompt's end, or to where it is cut or its part ends.
  int PieceLeft() const;
  bool IsCut(int position) const { return position == cuts_[0] || position == cuts_[1]; }
  // Whether a state is kept from which the text goes on in this part, not the first.
  bool BeginsIn(int part, PrefixCache* cache) const;
  // Where states of this part are looked for: the longest is of all but the last token.
  absl::Span<const int32_t> Sought(int part) const;
  // Tokens of prompt and output that were not computed for it yet.
  int64_t Left() const;
  WaitingItem AsItem(absl::Time arrived) const;
  // The tokens that the state holds, from the `from`th on.
  std::vector<int32_t> Text(int from) const;
  // PrefixCache::Remember() of all of them.
  PrefixCache::Node* RememberText(PrefixCache* cache);
  void Resume(StatePool* pool, PrefixCache* cache);
  // Whether it has come past the end of the text that is shown, into a stop string.
  bool PastText() const;
  // Whether the id that ended it was computed before it was known.
  bool PastEndId() const;
  // Whether there is one at a node already, which then is this one's too.
  bool IsKept(PrefixCache::Node* node, int importance, PrefixCache* cache) const;
  // Keeps a snapshot, or gives it back where there is no memory to list it.
  void Keep(PrefixCache::Node* node, Snapshot* snapshot, int importance, bool unread,
            StatePool* pool, PrefixCache* cache);
  // Tokens that were sampled or will be by what has been started.
  int StartedTokens() const { return usage_.completion_tokens + awaited_; }
  size_t MostListBytes() const;
  // How the next token is drawn.
  SamplingRow NextRow() const;
  // What is asked about the prompt's token `index`.
  SamplingRow ScoreRow(int index) const;

  Request request_;
  const int vocab_size_;
  const int prompt_end_;  // Tokens of the prompt that are computed.
  const int first_row_;   // From this position on each token has a row of logits.
  SamplingState sampling_;
  size_t list_bytes_ = 0;
  std::vector<int32_t> eos_ids_;             // Empty where they are ignored.
  std::vector<int32_t> end_ids_;             // With the stop ids.
  std::optional<GrammarPosition> position_;  // In the grammar: from admission to the end.
  std::optional<StopMatcher> stop_matcher_;
  std::optional<TextDecoder> decoder_;

  // By part of the text: what it needs from there on to its end.
  std::vector<PartCounts> needs_;
  int part_ = 0;  // Where it stands or begins.
  SequenceState state_;
  std::vector<std::string> spaces_;  // Likewise: whose states it shares.
  bool uses_cache_;
  PrefixCache::Place place_;        // Where its text was last remembered in the part's space.
  std::vector<int32_t> generated_;  // Only where it does.
  int open_from_ = -1;  // Tokens before a stop string that may have begun; -1: none has.
  bool ended_by_id_ = false;
  // Pieces of the prompt end here, for snapshots: where it leaves what others have begun with, and
  // where it was asked to.
  std::array<int, 2> cuts_ = {};
  int snapped_ = 0;  // Where it began, or has last been snapped.
  // A state that was fetched can have had to give way again before its sequence is admitted.
  int fetches_left_ = 3;

  std::shared_ptr<Sequence> leader_;
  bool in_group_ = false;  // It follows or is followed.
  Rank rank_;
  int tenant_ = -1;
  int64_t level_ = 0;
  int entered_at_ = 0;                             // Its position then.
  absl::Time parked_at_ = absl::InfiniteFuture();  // Since when it is parked.
  int32_t last_token_ = -1;
  int unread_ = 0;    // Spans that were started and whose results have not been read.
  int scored_ = 0;    // Scores that have come.
  int awaited_ = 0;   // Tokens that started spans sample and that have not come.
  int last_row_ = 0;  // Of the last of them, in its step.
  bool admitted_ = false;
  bool resumed_ = false;  // It has been parked and goes on.
  bool finished_ = false;
  absl::Time submitted_;
  absl::Time last_progress_;
  Usage usage_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SEQUENCE_H_
