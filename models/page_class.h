// Pages by how long they live: pages of one class hold the same positions for all of its layers.
#ifndef PACKRAT_MODELS_PAGE_CLASS_H_
#define PACKRAT_MODELS_PAGE_CLASS_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace packrat {

struct PageClass {
  enum class Kind { kRat, kFull, kWindow };
  Kind kind;
  int tokens_per_page;  // RAT: the chunk length; attention: 16.
  int window;           // kWindow: visible keys; else 0.
  int num_layers;       // Mixers that live in this class's pages.
  size_t page_bytes;
  // kRat: tokens after its chunk until a page is written. RAT+ keeps that long in a window what the
  // page will hold.
  int64_t delay = 0;
  size_t part_bytes = 0;  // Of a page, each layer's; 0 where not all have as many.
  // A label for metrics: "rat_chunk16", "rat_chunk16_delay260", "attention", "window128".
  std::string Name() const;

  // Pages that a text of `tokens` tokens has finished.
  int64_t Finished(int64_t tokens) const;

  // Pages that a sequence of `tokens` tokens holds at most. RAT pages hold finished chunks only; a
  // window keeps a ring of pages, page b of the text at ring position b % ring.
  int PagesFor(int64_t tokens) const;
};

// The pages that a text of `tokens` tokens still needs, by their number in the text: [first, end).
// Those from `unfinished` on will be written to again.
struct PagesInUse {
  PagesInUse(const PageClass& page_class, int tokens);
  int first, unfinished, end;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_PAGE_CLASS_H_
