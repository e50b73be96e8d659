// Where the bytes of pages are in a pool that has them in planes (models/batch.h). Offsets mean
// whole pages, one after the other; memory has the parts of one layer together.
#ifndef PACKRAT_MODELS_GPU_PAGE_PLANES_H_
#define PACKRAT_MODELS_GPU_PAGE_PLANES_H_

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/check.h"

namespace packrat::gpu {

// The pages of one class: part i of page p is at offset + (i * count + p) * part_bytes.
struct PagePlanes {
  size_t offset = 0;  // Of all of them, in planes or whole.
  size_t page_bytes = 0, part_bytes = 0, count = 0;

  size_t plane_bytes() const { return count * part_bytes; }
  int parts() const { return static_cast<int>(page_bytes / part_bytes); }
  size_t end() const { return offset + count * page_bytes; }
  bool Has(size_t at) const { return offset <= at && at < end(); }
  // Where the first part of the page is that has byte `at` of whole pages.
  size_t PlaceOf(size_t at) const { return offset + (at - offset) / page_bytes * part_bytes; }
};

// Those of all classes that are in planes, by offset.
class PlacesInPlanes {
 public:
  void Add(const PagePlanes& planes) {
    PACKRAT_CHECK(all_.empty() || all_.back().end() <= planes.offset, "classes in their order")
        << planes.offset;
    all_.push_back(planes);
  }
  // Null: what is at `at` is not in planes.
  const PagePlanes* Find(size_t at) const {
    for (const PagePlanes& planes : all_) {
      if (planes.Has(at)) return &planes;
    }
    return nullptr;
  }

  // Where bytes [at, at + bytes) are, in their order: row(place, bytes) of what lies in a row, and
  // page(planes, place) of a whole page in planes, whose first part is there.
  template <class Row, class Page>
  void ForEach(size_t at, size_t bytes, Row row, Page page) const {
    for (size_t n = 0; bytes > 0; at += n, bytes -= n) {
      const PagePlanes* planes = Find(at);
      if (planes == nullptr) {
        n = bytes;
        for (const PagePlanes& next : all_) {
          if (at < next.offset) n = std::min(n, next.offset - at);
        }
        row(at, n);
        continue;
      }
      const size_t within = (at - planes->offset) % planes->page_bytes;
      if (within == 0 && bytes >= planes->page_bytes) {
        n = planes->page_bytes;
        page(*planes, planes->PlaceOf(at));
        continue;
      }
      const size_t part = within / planes->part_bytes, begin = within % planes->part_bytes;
      n = std::min(bytes, planes->part_bytes - begin);
      row(planes->PlaceOf(at) + part * planes->plane_bytes() + begin, n);
    }
  }

 private:
  std::vector<PagePlanes> all_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_PAGE_PLANES_H_
