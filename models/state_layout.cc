#include "models/state_layout.h"

#include <algorithm>
#include <limits>
#include <variant>

#include "kernels/check.h"
#include "kernels/rat.h"

namespace packrat {
namespace {

size_t PartBytes(size_t elements, DType type = DType::kF32) {
  return (elements * DTypeBytes(type) + kStateAlign - 1) / kStateAlign * kStateAlign;
}

// What of a mixer decides which class its pages belong to: its pages must live equally long.
PageClass ClassOf(const RatSpec& spec) { return {PageClass::Kind::kRat, spec.chunk_size, 0, 0, 0}; }
PageClass ClassOf(const AttentionSpec& spec) {
  const auto kind = spec.window > 0 ? PageClass::Kind::kWindow : PageClass::Kind::kFull;
  return {kind, kBlockTokens, spec.window, 0, 0};
}

// Index of the class with these properties, which is added if there is none.
int FindOrAdd(std::vector<PageClass>* classes, const PageClass& wanted) {
  for (size_t i = 0; i < classes->size(); ++i) {
    const PageClass& c = (*classes)[i];
    if (c.kind == wanted.kind && c.tokens_per_page == wanted.tokens_per_page &&
        c.window == wanted.window) {
      return static_cast<int>(i);
    }
  }
  classes->push_back(wanted);
  return static_cast<int>(classes->size()) - 1;
}

void AddPagePart(const PageClass& page_class, size_t bytes, std::vector<PageClass>* classes,
                 LayerState* layer) {
  layer->page_class = FindOrAdd(classes, page_class);
  PageClass& c = (*classes)[layer->page_class];
  layer->page_offset = c.page_bytes;
  c.page_bytes += bytes;
  ++c.num_layers;
}

}  // namespace

std::string PageClass::Name() const {
  switch (kind) {
    case Kind::kRat:
      return "rat_chunk" + std::to_string(tokens_per_page);
    case Kind::kWindow:
      return "window" + std::to_string(window);
    case Kind::kFull:
      break;
  }
  return "attention";
}

int PageClass::PagesFor(int64_t tokens) const {
  PACKRAT_CHECK(tokens >= 0);
  int64_t pages = tokens / tokens_per_page;
  if (kind != Kind::kRat && tokens % tokens_per_page != 0) ++pages;
  if (kind == Kind::kWindow) {
    // A window of w keys that ends at any position touches at most this many blocks.
    pages = std::min<int64_t>(pages, 1 + (int64_t{window} - 1 + kBlockTokens - 1) / kBlockTokens);
  }
  return static_cast<int>(std::min<int64_t>(pages, std::numeric_limits<int>::max()));
}

StateLayout::StateLayout(const ModelConfig& config, StateTypes types) {
  layers.resize(config.layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerState& layer = layers[i];
    if (const auto* rat = std::get_if<RatSpec>(&config.layers[i])) {
      AddPagePart(ClassOf(*rat),
                  PartBytes(RatPageFloats(rat->num_heads, rat->head_dim), types.pages),
                  &page_classes, &layer);
      layer.tail_offset = tail_bytes;
      tail_bytes += PartBytes(RatTailFloats(rat->num_heads, rat->head_dim));
    } else if (const auto* attention = std::get_if<AttentionSpec>(&config.layers[i])) {
      AddPagePart(
          ClassOf(*attention),
          PartBytes(AttentionPageFloats(attention->num_kv_heads, attention->head_dim), types.pages),
          &page_classes, &layer);
    } else {
      const auto& mesa = std::get<MesaSpec>(config.layers[i]);
      layer.slot_offset = slot_bytes;
      slot_bytes += PartBytes(MesaSlotFloats(mesa.num_heads, mesa.head_dim), types.mesa);
      layer.tail_offset = tail_bytes;
      tail_bytes += PartBytes(MesaTailLayout(mesa.num_heads, mesa.head_dim, mesa.conv_size).end);
    }
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
