#include "models/state_layout.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace packrat {
namespace {

size_t Aligned(size_t bytes) { return (bytes + kStateAlign - 1) / kStateAlign * kStateAlign; }

bool LiveEquallyLong(const PageClass& a, const PageClass& b) {
  return a.kind == b.kind && a.tokens_per_page == b.tokens_per_page && a.window == b.window &&
         a.delay == b.delay;
}

// The index of the class whose pages live as long as `wanted`; adds it if there is none.
int FindOrAdd(std::vector<PageClass>* classes, const PageClass& wanted) {
  const auto found = std::find_if(classes->begin(), classes->end(),
                                  [&](const auto& c) { return LiveEquallyLong(c, wanted); });
  const auto index = static_cast<int>(found - classes->begin());
  if (found == classes->end()) classes->push_back(wanted);
  return index;
}

// Of what never has a page.
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

}  // namespace

StateLayout::StateLayout(const ModelConfig& config, StateTypes types)
    : StateLayout(MixersAt(config, 0), types) {
  std::vector<PageClass> all = page_classes;
  others.reserve(config.num_dials() - 1);
  for (int dial = 1; dial < config.num_dials(); ++dial) {
    others.push_back(StateLayout(MixersAt(config, dial), types));
    others.back().JoinClasses(&all);
  }
  tail_stride = tail_bytes;
  for (const StateLayout& other : others) tail_stride = std::max(tail_stride, other.tail_bytes);
  const auto for_each_layout = [&](auto visit) {
    visit(*this);
    for (StateLayout& other : others) visit(other);
  };
  for_each_layout([&](StateLayout& layout) {
    layout.tail_stride = tail_stride;
    layout.page_classes.resize(all.size(), PageClass{PageClass::Kind::kRat, 1, 0, 0, 0, kNever});
    for (size_t c = 0; c < all.size(); ++c) {
      const PageClass& own = layout.page_classes[c];
      if (own.num_layers > 0 && own.part_bytes != all[c].part_bytes) all[c].part_bytes = 0;
    }
  });
  for_each_layout([&](StateLayout& layout) {
    for (size_t c = 0; c < all.size(); ++c) {
      layout.page_classes[c].page_bytes = all[c].page_bytes;
      layout.page_classes[c].part_bytes = all[c].part_bytes;
    }
  });
}

StateLayout::StateLayout(const std::vector<MixerSpec>& specs, const StateTypes& types)
    : types(types) {
  for (const MixerSpec& mixer : specs) {
    const MixerState state = StateOf(mixer, types);
    MixerPart part;
    if (state.page_bytes > 0) {
      part.page_class = FindOrAdd(&page_classes, state.page_class);
      PageClass& page_class = page_classes[part.page_class];
      part.page_offset = page_class.page_bytes;
      part.page_bytes = state.page_bytes;
      std::copy_n(state.page_row_bytes, 2, part.page_row_bytes);
      const size_t part_bytes = Aligned(state.page_bytes);
      page_class.page_bytes += part_bytes;
      const bool first = page_class.num_layers++ == 0;
      page_class.part_bytes = first || page_class.part_bytes == part_bytes ? part_bytes : 0;
    }
    part.slot_offset = slot_bytes;
    slot_bytes += Aligned(state.slot_bytes);
    part.tail_offset = tail_bytes;
    tail_bytes += Aligned(state.tail_bytes);
    mixers.push_back(part);
  }
}

void StateLayout::JoinClasses(std::vector<PageClass>* all) {
  const std::vector<PageClass> own = std::move(page_classes);
  // Until they are its own, those of the others are not used.
  page_classes.assign(all->size(), PageClass{PageClass::Kind::kRat, 1, 0, 0, 0, kNever});
  std::vector<MixerPart> parts = mixers;
  for (size_t c = 0; c < own.size(); ++c) {
    const auto place = [&](bool entries) {
      size_t i = 0;
      for (; i < all->size(); ++i) {
        const PageClass& there = (*all)[i];
        const bool like = entries ? there.kind == PageClass::Kind::kRat && own[c].kind == there.kind
                                  : LiveEquallyLong(there, own[c]);
        if (like && there.page_bytes == own[c].page_bytes && page_classes[i].num_layers == 0) break;
      }
      return i;
    };
    size_t at = place(/*entries=*/false);
    if (at == all->size()) at = place(/*entries=*/true);
    if (at == all->size()) {
      all->push_back(own[c]);
      page_classes.push_back(own[c]);
    }
    page_classes[at] = own[c];
    for (size_t m = 0; m < parts.size(); ++m) {
      if (mixers[m].page_class == static_cast<int>(c)) parts[m].page_class = static_cast<int>(at);
    }
  }
  mixers = std::move(parts);
}

std::string StateLayout::ClassName(size_t page_class) const {
  int dial = 0;
  while (ForDial(dial).page_classes[page_class].num_layers == 0) ++dial;
  const std::string name = ForDial(dial).page_classes[page_class].Name();
  // Another dial's may have the same name, and pages of another size.
  return dial == 0 ? name : name + "_dial" + std::to_string(dial);
}

int StateLayout::MostPages(size_t page_class, int64_t tokens) const {
  int pages = 0;
  for (int d = 0; d < num_dials(); ++d) {
    pages = std::max(pages, ForDial(d).page_classes[page_class].PagesFor(tokens));
  }
  return pages;
}

size_t StateLayout::BytesOfAny(int64_t tokens) const {
  size_t bytes = slot_bytes + tail_stride;
  for (size_t i = 0; i < page_classes.size(); ++i) {
    bytes += MostPages(i, tokens) * page_classes[i].page_bytes;
  }
  return bytes;
}

size_t StateLayout::SequenceBytes(int64_t tokens) const {
  size_t bytes = slot_bytes + tail_bytes;
  for (const PageClass& c : page_classes) bytes += c.PagesFor(tokens) * c.page_bytes;
  return bytes;
}

int64_t StateLayout::TokensIn(int64_t bytes, int64_t most) const {
  int64_t tokens = 0;
  for (int64_t step = int64_t{1} << 30; step > 0; step /= 2) {
    const auto needed = static_cast<int64_t>(BytesOfAny(tokens + step));
    if (tokens + step <= most && needed <= bytes) tokens += step;
  }
  return tokens;
}

}  // namespace packrat
