#include "models/owned_state.h"

#include <algorithm>
#include <utility>

namespace packrat {

absl::StatusOr<std::unique_ptr<OwnedState>> OwnedState::Create(LanguageModel* model, int sequences,
                                                               int max_tokens) {
  const StateLayout& layout = model->state_layout();
  std::unique_ptr<OwnedState> state(new OwnedState);
  state->has_slots_ = layout.slot_bytes > 0;
  state->num_classes_ = layout.page_classes.size();
  // Every part is a multiple of the alignment. A model of feed-forwards alone has no state.
  const size_t bytes = std::max(layout.BytesOfAny(max_tokens) * sequences, size_t{1});
  auto buffer = model->AllocateState(bytes);
  if (!buffer.ok()) return buffer.status();
  state->buffer_ = *std::move(buffer);
  std::byte* slots = state->buffer_->data();
  std::byte* tails = slots + layout.slot_bytes * sequences;
  std::byte* next = tails + layout.tail_stride * sequences;
  std::vector<int> counts(layout.page_classes.size());
  for (size_t c = 0; c < counts.size(); ++c) {
    counts[c] = layout.MostPages(c, max_tokens);
    const PageClass& pages = layout.page_classes[c];
    state->pages_.push_back(state->buffer_->PlacePages(
        next - state->buffer_->data(), pages.page_bytes, pages.part_bytes, counts[c] * sequences));
    next += pages.page_bytes * counts[c] * sequences;
  }
  for (int s = 0; s < sequences; ++s) {
    for (const int count : counts) {
      std::vector<int32_t> ids(count);
      // Pages that follow each other in the text do not in memory, as in a pool that has been in
      // use.
      for (int i = 0; i < count; ++i) ids[i] = (count - 1 - i) * sequences + s;
      state->page_ids_.push_back(std::move(ids));
    }
  }
  for (const std::vector<int32_t>& ids : state->page_ids_) {
    state->tables_.push_back({ids.data(), static_cast<int32_t>(ids.size())});
  }
  state->memory_ = {slots, tails, state->pages_.data()};
  return state;
}

Span OwnedState::SpanFor(int sequence, int first_token, int num_tokens, int position) const {
  Span span;
  span.first_token = first_token;
  span.num_tokens = num_tokens;
  span.position = position;
  span.slot_in = span.slot_out = has_slots_ ? sequence : -1;
  span.tail = sequence;
  span.pages = tables_.data() + sequence * num_classes_;
  return span;
}

// All bits set are a NaN in every storage type.
void OwnedState::Poison() { buffer_->Fill(0, buffer_->size(), 0xFF); }

}  // namespace packrat
