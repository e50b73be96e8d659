#include "models/owned_state.h"

#include <algorithm>
#include <limits>

namespace packrat {

OwnedState::OwnedState(const StateLayout& layout, int sequences, int max_tokens)
    : slots_(layout.slot_bytes * sequences),
      tails_(layout.tail_bytes * sequences),
      num_classes_(layout.page_classes.size()) {
  for (const PageClass& page_class : layout.page_classes) {
    pages_.emplace_back(page_class.page_bytes * page_class.PagesFor(max_tokens) * sequences);
    page_bases_.push_back(pages_.back().data());
  }
  for (int s = 0; s < sequences; ++s) {
    for (const PageClass& page_class : layout.page_classes) {
      const int count = page_class.PagesFor(max_tokens);
      std::vector<int32_t> ids(count);
      // Neighbours in the text are not neighbours in memory, as in a pool that has been in use.
      for (int i = 0; i < count; ++i) ids[i] = (count - 1 - i) * sequences + s;
      page_ids_.push_back(std::move(ids));
    }
  }
  for (const std::vector<int32_t>& ids : page_ids_) {
    tables_.push_back({ids.data(), static_cast<int32_t>(ids.size())});
  }
  memory_ = {slots_.data(), tails_.data(), page_bases_.data()};
}

Span OwnedState::SpanFor(int sequence, int first_token, int num_tokens, int position) const {
  Span span;
  span.first_token = first_token;
  span.num_tokens = num_tokens;
  span.position = position;
  span.slot_in = span.slot_out = slots_.size() > 0 ? sequence : -1;
  span.tail = sequence;
  span.pages = tables_.data() + sequence * num_classes_;
  return span;
}

void OwnedState::Poison() {
  const auto poison = [](const AlignedBytes& bytes) {
    std::fill_n(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float),
                std::numeric_limits<float>::quiet_NaN());
  };
  poison(slots_);
  poison(tails_);
  for (const AlignedBytes& pages : pages_) poison(pages);
}

}  // namespace packrat
