// Where a sequence's state lives: bytes of a slot, a tail and a page of each class. How a mixer's
// part looks inside is the kernels' business (kernels/mesa.h, rat.h, attention.h); this puts the
// parts of all mixers together, and the layer stack, admission and the memory metrics read it.
//
//   slot   sealed matrices of all layers that have some (Mesa, gated delta networks), as of the end
//          of the last finished block of 16 tokens
//   tail   the unfinished block: the rows from which such layers go on, RAT's running chunk, RAT+'s
//          average, window and sinks, and the rows that short convolutions still see. Private to a
//          sequence.
//   page   of a class: RAT entries (one finished chunk), full attention or one window length (16
//          positions of keys and values), for all layers of that class. The page of an unfinished
//          block or chunk is private, a finished one never changes again.
//
// Nothing here is read before it is written (positions tell what exists), so state needs no
// clearing before reuse; tests prove it by poisoning.
#ifndef PACKRAT_MODELS_STATE_LAYOUT_H_
#define PACKRAT_MODELS_STATE_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/mesa.h"
#include "models/config.h"
#include "models/page_class.h"

namespace packrat {

inline constexpr size_t kStateAlign = 64;  // Bytes; every part, slot, tail and page is a multiple.

// Offsets of one mixer's part, in bytes from the start of the sequence's slot, tail or page.
struct MixerPart {
  int page_class = -1;  // -1: no pages.
  size_t page_offset = 0;
  size_t page_bytes = 0, page_row_bytes[2] = {};  // MixerState's.
  size_t slot_offset = 0;
  size_t tail_offset = 0;
};

struct StateLayout {
  explicit StateLayout(const ModelConfig& config, StateTypes types = StateTypes());

  size_t slot_bytes = 0;  // 0 where no layer has a part in it.
  size_t tail_bytes = 0;
  std::vector<PageClass> page_classes;  // In order of first use by a mixer.
  std::vector<MixerPart> mixers;        // As ModelConfig::mixers.

  // The layouts of sequences with another dial than the first (ModelConfig::dials). They list the
  // same classes, of which each has pages of one size: entries of RAT+ may be of one class for
  // several dials, each with numbers of its own. A class that a dial does not use never has a page.
  std::vector<StateLayout> others;
  StateTypes types;
  size_t tail_stride = 0;  // From tail to tail, whatever the dials: the most bytes of any.
  int num_dials() const { return 1 + static_cast<int>(others.size()); }
  const StateLayout& ForDial(int dial) const { return dial == 0 ? *this : others[dial - 1]; }
  // A label for metrics: PageClass::Name() at the first dial that uses it.
  std::string ClassName(size_t page_class) const;

  // All that a sequence of `tokens` tokens holds, of this layout's dial.
  size_t SequenceBytes(int64_t tokens) const;
  // The most pages of a class that one of any dial holds, and the parts that suffice for it.
  int MostPages(size_t page_class, int64_t tokens) const;
  size_t BytesOfAny(int64_t tokens) const;
  // Tokens, up to `most`, of the longest sequence that takes at most so many bytes, whatever its
  // dial; 0 where not even an empty one does.
  int64_t TokensIn(int64_t bytes, int64_t most) const;

 private:
  StateLayout(const std::vector<MixerSpec>& specs, const StateTypes& types);
  // Gives its classes places among those of all dials, to which it adds what has none.
  void JoinClasses(std::vector<PageClass>* all);
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_STATE_LAYOUT_H_
