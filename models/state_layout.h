// Where a sequence's state lives: bytes of a slot, a tail and a page of each class. The one place
// that knows sizes: the layer stack, admission and the memory metrics read it.
//
//   slot   sealed Mesa matrices of all Mesa layers as of the last finished block of 16 tokens
//   tail   the unfinished block: Mesa rows k, v, beta, log_gamma; RAT's running chunk; the rows
//          that the short convolutions still see. Private to a sequence.
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

#include "models/config.h"

namespace packrat {

inline constexpr int kBlockTokens = 16;
inline constexpr size_t kStateAlign = 64;  // Bytes; every part, slot, tail and page is a multiple.

constexpr size_t RoundUp(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// State rows of one head are padded to whole vectors of 16 floats; kernels write the padding as
// zeros, so that reading it is harmless and needs no masks.
constexpr int PaddedHeadDim(int head_dim) { return (head_dim + 15) / 16 * 16; }

// Floats of one head's sealed Hkk: the 16x16 blocks (row-major inside) on and below the diagonal,
// in the order (0,0) (1,0) (1,1) (2,0) ...: symmetric, so the rest is known.
constexpr size_t MesaHkkFloats(int head_dim) {
  const size_t blocks = static_cast<size_t>(PaddedHeadDim(head_dim)) / 16;
  return blocks * (blocks + 1) / 2 * 256;
}

// Floats of one head's sealed Hkv: row-major (padded key channel, padded value channel).
constexpr size_t MesaHkvFloats(int head_dim) {
  return static_cast<size_t>(PaddedHeadDim(head_dim)) * PaddedHeadDim(head_dim);
}

// One Mesa layer's slot part, in floats from its start: Hkk of all heads, then Hkv of all heads.
struct MesaSlotLayout {
  size_t hkk, hkv, total;
};
constexpr MesaSlotLayout MesaSlot(const MesaSpec& spec) {
  const size_t heads = static_cast<size_t>(spec.num_heads);
  const size_t hkv = heads * MesaHkkFloats(spec.head_dim);
  return {0, hkv, hkv + heads * MesaHkvFloats(spec.head_dim)};
}

// One Mesa layer's tail part, in floats from its start; D = head_dim, P = padded D, H = heads:
// k (H, 16, P), v (H, 16, P), beta (H, 16), log_gamma (H, 16), and the rows before the convolution
// conv_q (conv_size - 1, H*D), conv_k (conv_size - 1, H*D), each rounded up to 16 floats.
struct MesaTailLayout {
  size_t k, v, beta, log_gamma, conv_q, conv_k, total;
};
constexpr MesaTailLayout MesaTail(const MesaSpec& spec) {
  const size_t heads = static_cast<size_t>(spec.num_heads);
  const size_t rows = heads * kBlockTokens * PaddedHeadDim(spec.head_dim);
  const size_t conv = RoundUp((spec.conv_size - 1) * heads * spec.head_dim, 16);
  const size_t beta = 2 * rows, log_gamma = beta + heads * kBlockTokens;
  const size_t conv_q = log_gamma + heads * kBlockTokens;
  return {0, rows, beta, log_gamma, conv_q, conv_q + conv, conv_q + 2 * conv};
}

// One RAT layer's tail part, in floats: the running kbar (H*D, not rotated), then vbar (H*D), each
// rounded up to 16 floats.
struct RatTailLayout {
  size_t kbar, vbar, total;
};
constexpr RatTailLayout RatTail(const RatSpec& spec) {
  const size_t width = RoundUp(static_cast<size_t>(spec.num_heads) * spec.head_dim, 16);
  return {0, width, 2 * width};
}

// One layer's part of a page, in floats: keys, then values of the same size. RAT: one entry (H, P)
// each, the key rotated. Attention: (kv heads, 16, P) each, the keys rotated.
struct PageLayout {
  size_t key, value, total;
};
constexpr PageLayout RatPage(const RatSpec& spec) {
  const size_t entry = static_cast<size_t>(spec.num_heads) * PaddedHeadDim(spec.head_dim);
  return {0, entry, 2 * entry};
}
constexpr PageLayout AttentionPage(const AttentionSpec& spec) {
  const size_t rows =
      static_cast<size_t>(spec.num_kv_heads) * kBlockTokens * PaddedHeadDim(spec.head_dim);
  return {0, rows, 2 * rows};
}

struct PageClass {
  enum class Kind { kRat, kFull, kWindow };
  Kind kind;
  int tokens_per_page;  // RAT: the chunk length; attention: 16.
  int window;           // kWindow: visible keys; else 0.
  int num_layers;       // Layers that live in this class's pages.
  size_t page_bytes;
  std::string Name() const;  // "rat_chunk16", "attention", "window128": a label for metrics.

  // Pages that a sequence of `tokens` tokens holds at most. RAT pages hold finished chunks only; a
  // window keeps a ring of pages, page b of the text at ring position b % ring.
  int PagesFor(int64_t tokens) const;
};

// Offsets of one layer's part, in bytes from the start of the sequence's slot, tail or page.
struct LayerState {
  int page_class = -1;  // -1: no pages (Mesa).
  size_t page_offset = 0;
  size_t slot_offset = 0;  // Mesa only.
  size_t tail_offset = 0;  // Mesa and RAT.
};

struct StateLayout {
  explicit StateLayout(const ModelConfig& config);

  size_t slot_bytes = 0;  // 0 where the model has no Mesa layer.
  size_t tail_bytes = 0;
  std::vector<PageClass> page_classes;  // In order of first use by a layer.
  std::vector<LayerState> layers;       // One per layer.

  // All that a sequence of `tokens` tokens holds.
  size_t SequenceBytes(int64_t tokens) const;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_STATE_LAYOUT_H_
