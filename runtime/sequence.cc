#include "runtime/sequence.h"

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "runtime/no_memory.h"

namespace packrat {
namespace {

// A long prompt is snapped after so many tokens, where a piece of it ends, and a conversation's
// answer whose end would be seen too late.
constexpr int kSnapshotEvery = 4096, kAnswerSnapshotEvery = 64;
// A snapshot at a prompt's end, or where two prompts part, saves so many tokens at least.
constexpr int kWorthSaving = kBlockTokens;
// One before a prompt's last piece, for who asks the same again, so many, and copies at most so
// many bytes for each, which takes some ten microseconds.
constexpr int kWorthSavingAgain = 128;
constexpr int64_t kBytesOfSaved = 64 << 10;

}  // namespace

Sequence::Sequence(Request request, const RequestLimits& limits, const Tokenizer* tokenizer,
                   const StateLayout& layout, absl::Time now)
    : request_(std::move(request)),
      vocab_size_(limits.vocab_size),
      // Where nothing is generated, nobody asks what the last token predicts.
      prompt_end_(static_cast<int>(request_.prompt.size()) - (request_.stop.max_tokens == 0)),
      first_row_(request_.score_from.value_or(static_cast<int>(request_.prompt.size())) - 1),
      sampling_(request_.sampling, limits.num_ids),
      end_ids_(EndIds(request_.stop, limits.eos_ids)),
      uses_cache_(request_.cache.use),
      submitted_(now),
      last_progress_(now) {
  list_bytes_ = MostListBytes();
  if (!request_.stop.ignore_eos) eos_ids_ = limits.eos_ids;
  const TextParams& text = request_.text;
  if (!text.stop_strings.empty()) {
    stop_matcher_.emplace(text.stop_strings);
    decoder_.emplace(tokenizer, text.skip_special_tokens, text.continues_text);
    decoder_->Continue(request_.prompt);
  }
  usage_.prompt_tokens = static_cast<int>(request_.prompt.size());
  const TextDials& dials = request_.dials;
  StateSpace space = SpaceOf(request_);
  space.dials.finer.clear();
  for (int part = 0; part < dials.num_parts(); ++part) {
    const bool last = part + 1 == dials.num_parts();
    const int64_t end =
        last ? int64_t{usage_.prompt_tokens} + request_.stop.max_tokens : dials.finer[part].end;
    space.dials.last = dials.Of(part);
    needs_.push_back(SequenceNeeds(layout.ForDial(space.dials.last), end));
    spaces_.push_back(space.Key());
    if (!last) space.dials.finer.push_back(dials.finer[part]);
  }
  // What it goes on with is there when it comes to it.
  for (size_t part = needs_.size() - 1; part-- > 0;) {
    for (size_t c = 0; c < needs_[part].pages.size(); ++c) {
      int32_t& pages = needs_[part].pages[c];
      pages = std::max(pages, needs_[part + 1].pages[c]);
    }
  }
}

absl::Span<const int32_t> Sequence::Sought(int part) const {
  // Whose logits are wanted is computed.
  int end = first_row_ + 1;
  if (part + 1 < request_.dials.num_parts()) {
    end = std::min(end, request_.dials.finer[part].end + 1);
  }
  return absl::MakeConstSpan(request_.prompt).subspan(0, end);
}

bool Sequence::BeginsIn(int part, PrefixCache* cache) const {
  const PrefixCache::Found found = cache->Find(spaces_[part], Sought(part));
  return found.node != nullptr || (found.on_disk != 0 && fetches_left_ > 0);
}

void Sequence::ChoosePart(PrefixCache* cache) {
  part_ = uses_cache_ && cache != nullptr ? request_.dials.num_parts() - 1 : 0;
  while (part_ > 0 && !BeginsIn(part_, cache)) --part_;
}

bool Sequence::LosesPart(PrefixCache* cache) {
  const int chosen = part_;
  while (part_ > 0 && !admitted_ && !BeginsIn(part_, cache)) --part_;
  return part_ < chosen;
}

absl::Status Sequence::GoCoarser(const ModelConfig& config, StatePool* pool, absl::Time now) {
  PACKRAT_CHECK(between_parts() && awaited_ == 0 && all_read());
  const int next = part_ + 1;
  const absl::Status status =
      state_.GoCoarser(config, pool->layout(), request_.dials.Of(next), needs_[next], pool);
  if (!status.ok()) return status;
  part_ = next;
  place_ = {};
  snapped_ = state_.position();
  parked_at_ = now;
  return absl::OkStatus();
}

bool Sequence::TakeBack(StatePool* pool) {
  if (!state_.FitsUnparked(*pool)) return false;
  state_.Unpark(pool);
  parked_at_ = absl::InfiniteFuture();
  return true;
}

void Sequence::Admit(StatePool* pool, PrefixCache* cache, int places, absl::Time now) {
  PACKRAT_CHECK(!admitted_, "admitted twice");
  // First what can be refused.
  state_.Prepare(pool->layout(), need(), request_.dials.Of(part_));
  if (cache == nullptr) uses_cache_ = false;
  if (uses_cache_) {
    generated_.reserve(std::min(request_.stop.max_tokens, SamplingState::kReservedTokens));
  }
  sampling_.Begin(request_.prompt, request_.stop.max_tokens);
  request_.outbox->Reserve(request_.stop.max_tokens, wants_logprobs());
  if (request_.grammar != nullptr) position_.emplace(request_.grammar);

  admitted_ = true;
  usage_.queue_time = now - submitted_;
  if (uses_cache_) Resume(pool, cache);
  state_.Take(pool, /*share_slot=*/pool->available(kSlotParts) > places);
  request_.outbox->Admit();
}

absl::Status Sequence::Park(StatePool* pool, absl::Time now) {
  PACKRAT_CHECK(awaited_ == 0, "a sequence is parked with results on the way") << awaited_;
  const absl::Status status = state_.Park(pool);
  if (status.ok()) parked_at_ = now;
  return status;
}

void Sequence::Unpark(StatePool* pool, absl::Time now) {
  state_.Unpark(pool);
  resumed_ = true;
  usage_.parked_time += now - std::exchange(parked_at_, absl::InfiniteFuture());
}

PrefixCache::Node* Sequence::StateToFetch(PrefixCache* cache) {
  if (!uses_cache_ || fetches_left_ == 0) return nullptr;
  PrefixCache::Node* const node = cache->Find(spaces_[part_], Sought(part_)).on_disk;
  if (node != nullptr) --fetches_left_;
  return node;
}

// Begins with the longest part of the prompt whose state is kept, and decides where the rest of it
// is cut.
void Sequence::Resume(StatePool* pool, PrefixCache* cache) {
  const std::string& space = spaces_[part_];
  const PrefixCache::Found found = cache->Find(space, Sought(part_));
  usage_.cache_miss = found.miss;
  const Snapshot* snapshot = nullptr;
  if (found.node != nullptr) {
    // A state that finds no memory on its way back is computed anew.
    (void)UnlessNoMemory([&] {
      snapshot = cache->Use(found.node);
      return absl::OkStatus();
    });
    if (snapshot == nullptr) usage_.cache_miss = CacheMiss::kEvicted;
  }
  if (snapshot == nullptr && part_ > 0) {
    admitted_ = false;
    throw std::bad_alloc();  // It can begin with nothing else, and its parts are there.
  }
  if (snapshot != nullptr) {
    state_.Resume(*snapshot, pool);
    (void)UnlessNoMemory([&] {  // Without it all of the text is looked for once.
      PrefixCache::SetPlace(found.node, &place_);
      return absl::OkStatus();
    });
    if (!state_.FitsBesideSnapshot(*pool)) {
      cache->Drop(found.node);
      // Others may hold the slot of that one too, and nothing else is there to copy it to.
      while (!state_.FitsBesideSnapshot(*pool) && cache->DropOne()) {
      }
    }
    usage_.cached_tokens = snapped_ = state_.position();
  }
  int shared = std::min(found.shared, first_row_);
  if (part_ + 1 < request_.dials.num_parts()) {
    shared = std::min(shared, request_.dials.finer[part_].end);
  }
  shared = shared / kBlockTokens * kBlockTokens;
  if (shared >= snapped_ + kWorthSaving) cuts_[0] = shared;
  const int asked = std::min(request_.cache.snapshot_at, prompt_end_);
  if (asked > snapped_) cuts_[1] = asked;
  // So that the next one sees what it shares with this one. Without memory for it, it does not.
  (void)UnlessNoMemory([&] {
    cache->Remember(space, request_.prompt);
    return absl::OkStatus();
  });
}

bool Sequence::SnapshotDue(int num_tokens, bool share_slot) const {
  const int position = state_.position(), saved = position - snapped_;
  if (!uses_cache_ || position < kMinSnapshotTokens) return false;
  // A conversation goes on from where a stop string begins, which is known only when the state has
  // come past it; or, where the next step is started before this token is known, past an end id.
  if (position > prompt_tokens()) {
    if (request_.cache.importance <= 0) return false;
    if (awaited_ == 0) return position == open_from_ && saved >= kWorthSaving;
    return open_from_ < 0 && position % kBlockTokens == 0 && saved >= kAnswerSnapshotEvery;
  }
  if (IsCut(position) && position > snapped_) return true;
  // The same prompt again can begin with a part of it, but not with all.
  const bool last_piece = num_tokens > 0 && num_tokens == PromptLeft() && position <= first_row_;
  if (last_piece && saved >= kWorthSavingAgain &&
      state_.SnapshotBytes(share_slot) <= saved * kBytesOfSaved) {
    return true;
  }
  return saved >= (position == prompt_tokens() ? kWorthSaving : kSnapshotEvery);
}

void Sequence::Snap(bool share_slot, StatePool* pool, PrefixCache* cache) {
  const int position = state_.position(), prompt = prompt_tokens();
  const bool conversation = request_.cache.importance > 0;
  // What only stands on the way has served its turn once the text goes on: in a long prompt, and
  // at the end of one whose text goes on with its answer. No other state makes room for it.
  // What may be all that is left of a turn is none of that.
  const bool in_answer = position > prompt || (position == prompt && awaited_ > 0 && conversation);
  const bool goes_on = position < prompt || conversation;
  const bool on_the_way = !IsCut(position) && goes_on && !in_answer;
  const int importance = in_answer ? request_.cache.importance : 0;
  // One before the last piece may be gone soon: the prompt's end has one of its own all the same.
  const bool last_piece = on_the_way && position < prompt && position - snapped_ < kSnapshotEvery;
  if (!last_piece) snapped_ = position;
  (void)UnlessNoMemory([&] {
    PrefixCache::Node* const node = RememberText(cache);
    if (node == nullptr || IsKept(node, importance, cache)) return absl::OkStatus();
    if (!state_.CanSnap(*pool, /*free=*/on_the_way)) return absl::OkStatus();
    Snapshot snapshot = state_.Snap(share_slot, pool);
    // The steps that led here are read at the end of this one, before anybody looks for it.
    Keep(node, &snapshot, on_the_way ? -1 : importance, /*unread=*/false, pool, cache);
    return absl::OkStatus();
  });
}

void Sequence::Release(bool keep, StatePool* pool, PrefixCache* cache) {
  // What was only scored is hardly asked for again.
  const bool worth_it = state_.position() >= kMinSnapshotTokens && request_.stop.max_tokens > 0;
  if (keep && uses_cache_ && worth_it && state_.holds_parts() && !PastText()) {
    (void)UnlessNoMemory([&] {
      PrefixCache::Node* const node = RememberText(cache);
      // The conversation goes on from an end id only if the next turn begins with it.
      const int importance = PastEndId() ? 0 : request_.cache.importance;
      if (node == nullptr || IsKept(node, importance, cache)) return absl::OkStatus();
      Snapshot snapshot = state_.HandOver(pool);
      Keep(node, &snapshot, importance, /*unread=*/!all_read(), pool, cache);
      return absl::OkStatus();
    });
  }
  state_.Release(pool);
}

void Sequence::DropKept(PrefixCache* cache) const {
  cache->DropOf(request_.id);
  const absl::Span<const int32_t> prompt = request_.prompt;
  for (const std::string& space : spaces_) {
    cache->DropAlong(space, prompt.subspan(0, usage_.cached_tokens));
  }
}

bool Sequence::IsKept(PrefixCache::Node* node, int importance, PrefixCache* cache) const {
  if (PrefixCache::SnapshotAt(node).position == 0) return false;
  cache->Join(node, request_.id, importance, request_.cache.ends);
  return true;
}

void Sequence::Keep(PrefixCache::Node* node, Snapshot* snapshot, int importance, bool unread,
                    StatePool* pool, PrefixCache* cache) {
  try {
    cache->Put(node, snapshot, request_.id, importance, unread, request_.cache.ends);
  } catch (const std::bad_alloc&) {
    snapshot->Release(pool);
  }
}

bool Sequence::PastText() const {
  return request_.cache.importance > 0 && open_from_ >= 0 && state_.position() > open_from_;
}

bool Sequence::PastEndId() const {
  return ended_by_id_ && state_.position() == prompt_tokens() + usage_.completion_tokens;
}

std::vector<int32_t> Sequence::Text(int from) const {
  const int end = state_.position(), prompt = prompt_tokens();
  PACKRAT_CHECK(from <= end && end - prompt <= static_cast<int>(generated_.size()));
  std::vector<int32_t> text;
  text.reserve(end - from);
  const auto add = [&](const std::vector<int32_t>& tokens, int first, int last) {
    if (first < last) text.insert(text.end(), tokens.begin() + first, tokens.begin() + last);
  };
  add(request_.prompt, from, std::min(end, prompt));
  add(generated_, std::max(from - prompt, 0), end - prompt);
  return text;
}

PrefixCache::Node* Sequence::RememberText(PrefixCache* cache) {
  const int from = PrefixCache::DepthOf(place_);
  return cache->Remember(spaces_[part_], Text(from), &place_);
}

int Sequence::PromptLeft() const { return std::max(0, prompt_end_ - state_.position()); }

int Sequence::PieceLeft() const {
  const int position = state_.position();
  int left = PromptLeft();
  for (const int cut : cuts_) {
    if (position < cut) left = std::min(left, cut - position);
  }
  if (part_ + 1 < request_.dials.num_parts()) {
    left = std::min(left, request_.dials.finer[part_].end - position);
  }
  return left;
}

int Sequence::PieceTokens(int planned) const {
  if (resumed_) return planned;  // It was known.
  const int position = state_.position();
  int most = std::min(planned, PieceLeft());
  // No more rows of logits than were planned.
  if (first_row_ < prompt_end_ - 1) {
    most = std::min(most, first_row_ - position + std::max(planned - first_row_, 0));
  }
  if (most == PieceLeft()) return most;
  const int end = (position + most) / kBlockTokens * kBlockTokens;
  return end > position ? end - position : most;
}

int64_t Sequence::Left() const {
  const int64_t all = int64_t{prompt_tokens()} + request_.stop.max_tokens;
  if (!admitted_) return all;
  return all - (prompt_tokens() - PromptLeft() - usage_.cached_tokens) - usage_.completion_tokens;
}

int64_t Sequence::unused() const { return admitted_ && !parked() ? Left() : 0; }

void Sequence::Finish(FinishReason reason, absl::Status status, absl::Time now) {
  PACKRAT_CHECK(!finished_ && !state_.holds_parts() && !parked());
  finished_ = true;
  position_.reset();
  usage_.total_time = now - submitted_;
  if (parked_at_ < absl::InfiniteFuture()) usage_.parked_time += now - parked_at_;
  if (!admitted_) usage_.queue_time = usage_.total_time;
  request_.outbox->Close({reason, std::move(status), usage_});
}

WaitingItem Sequence::AsWaiting(uint64_t arrival, absl::Time now, int tenant) {
  submitted_ = last_progress_ = std::min(submitted_, now);
  leader_.reset();
  rank_ = {request_.priority, arrival};
  tenant_ = tenant;
  return AsItem(submitted_);
}

WaitingItem Sequence::AsWaitingParked() const { return AsItem(parked_at_); }

WaitingItem Sequence::AsItem(absl::Time arrived) const {
  WaitingItem item;
  item.arrival = rank_.arrival;
  item.arrived = arrived;
  item.deadline = request_.deadline;
  item.position = state_.position();
  item.prompt_left = PieceLeft();
  item.first_row = first_row_;
  item.cost = Left();
  item.need = &need();
  return item;
}

RunningItem Sequence::AsRunning() const {
  const bool complete = PromptLeft() == 0 && StartedTokens() == request_.stop.max_tokens;
  RunningItem item = {rank_,       tenant_,  request_.deadline, state_.position(),
                      PieceLeft(), complete, first_row_};
  item.level = level_;
  item.progress = state_.position() - entered_at_;
  item.bytes = state_.ParkedBytes();
  return item;
}

}  // namespace packrat
