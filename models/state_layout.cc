#include "models/state_layout.h"

#include <algorithm>

namespace packrat {
namespace {

size_t Aligned(size_t bytes) { return (bytes + kStateAlign - 1) / kStateAlign * kStateAlign; }

// The index of the class whose pages live as long as `wanted`; adds it if there is none.
int FindOrAdd(std::vector<PageClass>* classes, const PageClass& wanted) {
  for (size_t i = 0; i < classes->size(); ++i) {
    const PageClass& c = (*classes)[i];
    if (c.kind == wanted.kind && c.tokens_per_page == wanted.tokens_per_page &&
        c.window == wanted.window && c.delay == wanted.delay) {
      return static_cast<int>(i);
    }
  }
  classes->push_back(wanted);
  return static_cast<int>(classes->size()) - 1;
}

}  // namespace

StateLayout::StateLayout(const ModelConfig& config, StateTypes types) {
  for (const MixerSpec& mixer : config.mixers) {
    const MixerState state = StateOf(mixer, types);
    MixerPart part;
    if (state.page_bytes > 0) {
      part.page_class = FindOrAdd(&page_classes, state.page_class);
      PageClass& page_class = page_classes[part.page_class];
      part.page_offset = page_class.page_bytes;
      part.page_bytes = state.page_bytes;
      std::copy_n(state.page_row_bytes, 2, part.page_row_bytes);
      page_class.page_bytes += Aligned(state.page_bytes);
      ++page_class.num_layers;
    }
    part.slot_offset = slot_bytes;
    slot_bytes += Aligned(state.slot_bytes);
    part.tail_offset = tail_bytes;
    tail_bytes += Aligned(state.tail_bytes);
    mixers.push_back(part);
  }
}

size_t StateLayout::SequenceBytes(int64_t tokens) const {
  size_t bytes = slot_bytes + tail_bytes;
  for (const PageClass& c : page_classes) bytes += c.PagesFor(tokens) * c.page_bytes;
  return bytes;
}

int64_t StateLayout::TokensIn(int64_t bytes, int64_t most) const {
  int64_t tokens = 0;
  for (int64_t step = int64_t{1} << 30; step > 0; step /= 2) {
    const auto needed = static_cast<int64_t>(SequenceBytes(tokens + step));
    if (tokens + step <= most && needed <= bytes) tokens += step;
  }
  return tokens;
}

}  // namespace packrat
