#include "models/coarsen.h"

#include <algorithm>
#include <cstring>
#include <variant>
#include <vector>

#include "kernels/check.h"
#include "kernels/dtype.h"
#include "kernels/rat_plus.h"

namespace packrat {
namespace {

// Where one mixer's parts are in the bytes of a state.
struct Place {
  const StateLayout* layout;
  const MixerPart* part;
  size_t tail = 0, pages = 0;  // Its part of the tail, and of the first page in use.
  size_t page_stride = 0;
  int first_page = 0, num_pages = 0;

  Place(const StateLayout& of, int mixer, int position)
      : layout(&of), part(&of.mixers[mixer]), tail(of.slot_bytes + part->tail_offset) {
    if (part->page_class < 0) return;
    pages = of.slot_bytes + of.tail_bytes + part->page_offset;
    for (int c = 0; c <= part->page_class; ++c) {
      const PageClass& page_class = of.page_classes[c];
      const PagesInUse use(page_class, position);
      page_stride = page_class.page_bytes;
      first_page = use.first;
      num_pages = use.end - use.first;
      if (c < part->page_class) pages += num_pages * page_stride;
    }
  }
  size_t Page(int page) const {
    PACKRAT_CHECK(page >= first_page && page < first_page + num_pages) << page;
    return pages + (page - first_page) * page_stride;
  }
};

// The entries of a layer of RAT+: a key and a value of `half` bytes each.
class Entries {
 public:
  Entries(const RatPlusSpec& spec, const Place& place, int position)
      : place_(place),
        dense_(spec.dial.dense()),
        shape_(spec.shape()),
        position_(position),
        average_(RatTailFloats(spec.num_heads, spec.head_dim) * sizeof(float)),
        floats_(RatPageFloats(spec.num_heads, spec.head_dim) / 2),
        half_(floats_ * DTypeBytes(place.layout->types.pages)) {}

  size_t average_bytes() const { return average_; }
  size_t half() const { return half_; }

  // Of a position that is kept. Not where all is dense.
  size_t At(int s) const {
    const size_t entries = place_.tail + average_;
    if (s < shape_.sinks) return entries + s * 2 * half_;
    if (s >= position_ - shape_.window) {
      return entries + (shape_.sinks + s % shape_.window) * 2 * half_;
    }
    const int page = shape_.PageOf(s);
    PACKRAT_CHECK(page >= 0, "a position that was not kept") << s;
    return place_.Page(page);
  }

  void Read(int s, const std::byte* state, std::byte* to) const {
    if (!dense_) {
      std::memcpy(to, state + At(s), 2 * half_);
      return;
    }
    // Rows of a page of attention, each in blocks with those of fifteen other positions.
    const MixerPart& part = *place_.part;
    const std::byte* page = state + place_.Page(s / kBlockTokens);
    for (int h = 0; h < 2; ++h) {
      const size_t row = part.page_row_bytes[h];
      const std::byte* from = page + h * (part.page_bytes / 2) + s % kBlockTokens * row;
      const size_t stored = part.page_bytes / 2 / kBlockTokens;
      std::byte* const out = to + h * half_;
      for (size_t done = 0; done < stored; done += row, from += kBlockTokens * row) {
        std::memcpy(out + done, from, row);
      }
      if (stored != half_) Widen(out);
    }
  }

 private:
  // Attention that computes in bfloat16 has pages in it, wherever others are float32.
  void Widen(std::byte* half) const {
    for (size_t i = floats_; i-- > 0;) {
      const float value = LoadAsFloat(half, i, DType::kBF16);
      std::memcpy(half + i * sizeof value, &value, sizeof value);
    }
  }

  const Place place_;
  const bool dense_;
  const RatPlusShape shape_;
  const int position_;
  const size_t average_, floats_, half_;
};

void CoarsenLayer(const RatPlusSpec& from_spec, const RatPlusSpec& to_spec, const Place& from,
                  const Place& to, int position, const std::byte* state, std::byte* coarse) {
  const Entries source(from_spec, from, position), target(to_spec, to, position);
  std::memcpy(coarse + to.tail, state + from.tail, source.average_bytes());
  const RatPlusShape shape = to_spec.shape();
  const auto copy = [&](int s) { source.Read(s, state, coarse + target.At(s)); };
  for (int s = 0; s < std::min(shape.sinks, position); ++s) copy(s);
  for (int s = std::max(shape.sinks, position - shape.window); s < position; ++s) copy(s);
  for (int page = 0; page < to.num_pages; ++page) {
    copy((page + 1 + shape.sinks / shape.dilation) * shape.dilation - 1);
  }
}

}  // namespace

size_t StateBytes(const StateLayout& layout, int position) {
  size_t bytes = layout.slot_bytes + layout.tail_bytes;
  for (const PageClass& page_class : layout.page_classes) {
    const PagesInUse use(page_class, position);
    bytes += (use.end - use.first) * page_class.page_bytes;
  }
  return bytes;
}

void CoarsenState(const ModelConfig& config, const StateLayout& layout, int from, int to,
                  int position, const std::byte* state, std::byte* coarse) {
  const StateLayout &fine_layout = layout.ForDial(from), &coarse_layout = layout.ForDial(to);
  // What has no entry yet is never read.
  std::memset(coarse, 0xFF, StateBytes(coarse_layout, position));
  std::memcpy(coarse, state, layout.slot_bytes);
  for (size_t m = 0; m < config.mixers.size(); ++m) {
    const Place source(fine_layout, static_cast<int>(m), position);
    const Place target(coarse_layout, static_cast<int>(m), position);
    const auto* spec = std::get_if<RatPlusSpec>(&config.mixers[m]);
    if (spec != nullptr && !(spec->dial_at(from) == spec->dial_at(to))) {
      CoarsenLayer(spec->AtDial(from), spec->AtDial(to), source, target, position, state, coarse);
      continue;
    }
    const MixerState same =
        StateOf(spec != nullptr ? MixerSpec(spec->AtDial(from)) : config.mixers[m], layout.types);
    std::memcpy(coarse + target.tail, state + source.tail, same.tail_bytes);
    for (int page = source.first_page; page < source.first_page + source.num_pages; ++page) {
      std::memcpy(coarse + target.Page(page), state + source.Page(page), same.page_bytes);
    }
  }
}

}  // namespace packrat
