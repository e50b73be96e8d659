// Which dial of RAT+ (ModelConfig::dials) the tokens of a text have. A text may go on with a
// coarser one and keeps what it has computed, so that its beginning has finer ones.
#ifndef PACKRAT_RUNTIME_TEXT_DIALS_H_
#define PACKRAT_RUNTIME_TEXT_DIALS_H_

#include <cstdint>
#include <vector>

namespace packrat {

struct TextDials {
  struct Part {
    int32_t end = 0;  // It ends before this token; it begins where the one before it ends.
    int32_t dial = 0;
    bool operator==(const Part& o) const { return end == o.end && dial == o.dial; }
  };
  int32_t last = 0;         // That of the text's end...
  std::vector<Part> finer;  // ...and of what lies before it, from the beginning on.

  int num_parts() const { return static_cast<int>(finer.size()) + 1; }
  int32_t Of(int part) const { return part < num_parts() - 1 ? finer[part].dial : last; }
  // Those of the text's first `tokens`.
  void Cut(int64_t tokens) {
    while (!finer.empty() && finer.back().end >= tokens) {
      last = finer.back().dial;
      finer.pop_back();
    }
  }
  bool operator==(const TextDials& o) const { return last == o.last && finer == o.finer; }
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_TEXT_DIALS_H_
