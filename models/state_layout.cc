#include "models/state_layout.h"

#include <algorithm>
#include <iterator>
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

StateLayout::StateLayout(const ModelConfig& config, StateTypes types) {
  std::vector<StateLayout> dials;
  for (int i = 0; i < config.num_dials(); ++i) {
    dials.push_back(StateLayout(AtDial(config, i).mixers, types));
  }
  Align(&dials);
  *this = std::move(dials[0]);
  others.assign(std::make_move_iterator(dials.begin() + 1), std::make_move_iterator(dials.end()));
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

void StateLayout::Align(std::vector<StateLayout>* dials) {
  std::vector<PageClass> all;
  size_t tail_stride = 0;
  for (StateLayout& layout : *dials) {
    tail_stride = std::max(tail_stride, layout.tail_bytes);
    std::vector<int> places;  // In `all`, of the layout's own classes.
    const auto place = [&](const PageClass& wanted) {
      const auto fits = [&](size_t i, bool entries) {
        return all[i].page_bytes == wanted.page_bytes &&
               std::count(places.begin(), places.end(), static_cast<int>(i)) == 0 &&
               (entries ? all[i].kind == PageClass::Kind::kRat && wanted.kind == all[i].kind
                        : LiveEquallyLong(all[i], wanted));
      };
      for (const bool entries : {false, true}) {
        for (size_t i = 0; i < all.size(); ++i) {
          if (fits(i, entries)) return static_cast<int>(i);
        }
      }
      all.push_back(wanted);
      return static_cast<int>(all.size()) - 1;
    };
    for (const PageClass& own : layout.page_classes) places.push_back(place(own));
    for (MixerPart& part : layout.mixers) {
      if (part.page_class >= 0) part.page_class = places[part.page_class];
    }
    std::vector<PageClass> own(all.size(), PageClass{PageClass::Kind::kRat, 1, 0, 0, 0, kNever});
    for (size_t i = 0; i < places.size(); ++i) own[places[i]] = layout.page_classes[i];
    layout.page_classes = std::move(own);
  }
  for (StateLayout& layout : *dials) {
    layout.tail_stride = tail_stride;
    for (size_t i = 0; i < all.size(); ++i) {
      if (i == layout.page_classes.size()) {
        layout.page_classes.push_back({PageClass::Kind::kRat, 1, 0, 0, 0, kNever});
      }
      layout.page_classes[i].page_bytes = all[i].page_bytes;
    }
  }
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
