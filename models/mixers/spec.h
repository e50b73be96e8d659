// What every kind of mixer declares. A spec is a struct of sizes with these members:
//
//   static constexpr std::array kNames{...};  Its names in `layer_types`.
//   static Spec Read(type, fields, shared);   Reads its object of a config.json of our own family;
//                                             other families fill the struct in their reader.
//   MixerState State(StateTypes) const;       Its part of a sequence's state.
//   MixerInfo Info() const;                   For clients.
//   std::string Identity() const;             What its tensors do not show, for the fingerprint.
//   std::unique_ptr<Mixer> Load(const MixerLoad&) const;
//
// models/mixers/mixers.h lists the kinds; a kind that lacks a member does not compile.
#ifndef PACKRAT_MODELS_MIXERS_SPEC_H_
#define PACKRAT_MODELS_MIXERS_SPEC_H_

#include <cstddef>
#include <optional>
#include <string>

#include "kernels/dtype.h"
#include "kernels/rope.h"
#include "models/files/json_fields.h"
#include "models/page_class.h"

namespace packrat {

// Far above any real model, low enough that no product of two sizes leaves 40 bits.
inline constexpr int kMaxHidden = 1 << 16;
inline constexpr int kMaxHeads = 4096;
inline constexpr int kMaxContext = 1 << 30;
inline constexpr double kMaxRopeBase = 1e12;

// Fields of a model that its mixers read.
struct SharedFields {
  int hidden_size = 0;
  double rope_base = 10000.0;
};

// Storage types of state; tails are always float32.
struct StateTypes {
  DType pages = DType::kF32;
  DType slots = DType::kF32;
  bool paired_keys = false;  // Attention's pages are those of AttentionInBFloat16().
};

// A layer's part of a sequence's slot, tail and page, in bytes. 0: it has none.
struct MixerState {
  size_t slot_bytes = 0;
  size_t tail_bytes = 0;
  size_t page_bytes = 0;
  // Where pages fill up token by token: in the first half of a page (keys) and in the second
  // (values), the bytes of a token's row, 16 of which stand together. 0: a page is written at once.
  size_t page_row_bytes[2] = {};
  PageClass page_class{};  // Whose pages; read where page_bytes is not 0.
};

// What GetModelInfo reports; 0: does not apply.
struct MixerInfo {
  std::string type;  // As in `layer_types`.
  int num_heads = 0;
  int head_dim = 0;
  int num_kv_heads = 0;
  int chunk_size = 0;
  int window = 0;
};

// The width of a head where heads divide the model's width. Rotate-half pairs the two halves of a
// head, so an odd one cannot be rotated.
int EvenHeadDim(JsonFields* fields, const std::string& heads_name, int num_heads, int hidden_size);

// A number of groups that divides the heads. Required where there is no `fallback`.
int DivisorOfHeads(JsonFields* fields, const std::string& name, int num_heads,
                   std::optional<int> fallback);

// Refuses heads that are together wider than a model may be.
void CheckWidth(JsonFields* fields, const std::string& heads_name, int heads,
                const std::string& dim_name, int dim);

// rope_theta, from a field of that name or, as transformers 5 writes it, from within
// rope_parameters. With `scaling`, rope_parameters or the older rope_scaling may ask for any
// scaling that RopeScaling can express; without it, all scaling is refused. With `part`, which
// holds the fallback, partial_rotary_factor may say which part of a head is rotated, and sections
// of channels for the axes of a picture are ignored, since a text's positions are the same on all
// axes; without it, rotary on a part is refused too.
double ReadRopeTheta(JsonFields* fields, double fallback, RopeScaling* scaling = nullptr,
                     double* part = nullptr);

// All digits of a number, for Identity().
std::string Exact(double number);

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_SPEC_H_
