// RAT+: a gated running average over the whole text, attention over a chosen part of what it was;
// kernels/rat_plus.h.
#ifndef PACKRAT_MODELS_MIXERS_RAT_PLUS_H_
#define PACKRAT_MODELS_MIXERS_RAT_PLUS_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "kernels/rat_plus.h"
#include "models/layer.h"
#include "models/mixers/attention.h"
#include "models/mixers/spec.h"

namespace packrat {

inline constexpr int kMaxDials = 8;  // That a model has for its sequences to choose from.

// What a token sees beside itself. No weight's shape depends on it, but weights are trained for it.
struct RatPlusDial {
  int dilation = 1;  // The ends of stretches of so many tokens; 1: everything; -1: none of them.
  int window = 0;    // So many tokens before it.
  int sinks = 0;     // The first tokens of the text.

  static constexpr int kMax = kMaxContext;
  bool dense() const { return dilation == 1; }
  // Of what a text would need to go on with another dial, what it has not kept with this one.
  // Empty: it has all of it.
  std::string Lacks(const RatPlusDial& coarser) const;
  bool operator==(const RatPlusDial& o) const {
    return dilation == o.dilation && (dense() || (window == o.window && sinks == o.sinks));
  }
};

// What all layers of RAT+ see: one dial, or one for each. Of none: the configuration's own.
struct LayerDials {
  LayerDials() = default;
  LayerDials(const RatPlusDial& all) : layers{all} {}  // NOLINT: one is as good as many.

  bool own() const { return layers.empty(); }
  const RatPlusDial& Of(size_t layer) const {
    return layers.size() == 1 ? layers[0] : layers[layer];
  }
  // Not of the configuration's own.
  bool operator==(const LayerDials& o) const;

  std::vector<RatPlusDial> layers;
};

// "16", "16,256" or "16,256,4": dilation, window, sinks; each is one number for all layers, or one
// for each with colons between them: "1:16:4,0:8:0". INVALID_ARGUMENT with the ranges.
absl::StatusOr<LayerDials> ParseRatPlusDial(const std::string& text);
// All three, as short as can be.
std::string RatPlusDialText(const LayerDials& dials);
// The name of a dial that is the configuration's own, whatever it is.
inline constexpr char kOwnDial[] = "own";
// "16,256,4", or several with slashes between them, each ParseRatPlusDial()'s or kOwnDial; of no
// text none.
absl::StatusOr<std::vector<LayerDials>> ParseRatPlusDials(const std::string& text);

struct RatPlusSpec {
  int num_heads = 0;
  int head_dim = 0;
  RatPlusDial dial;
  double rope_base = 10000.0;
  // Pretrained weights know attention to everything as well as their dial, adapted ones that alone.
  bool pretrained = false;
  // Those that a sequence may have instead (Span::dial, from 1 on). An array, so that a variant of
  // specs is copied as bytes.
  std::array<RatPlusDial, kMaxDials - 1> others = {};
  int num_others = 0;

  static constexpr std::array kNames{"rat_plus"};
  static RatPlusSpec Read(const std::string& type, JsonFields* fields, const SharedFields& shared);
  int num_dials() const { return 1 + num_others; }
  const RatPlusDial& dial_at(int number) const { return number == 0 ? dial : others[number - 1]; }
  // The same layer where all sequences have dial `number`.
  RatPlusSpec AtDial(int number) const;
  RatPlusShape shape() const;
  // What attends where all is seen.
  AttentionSpec attention() const;
  MixerState State(const StateTypes& types) const;
  MixerInfo Info() const;
  std::string Identity() const;
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;
};

// A dilation in the authors' terms, from field `name`: -1, or 1 and more.
int CheckedDilation(JsonFields* fields, const std::string& name, int dilation);

}  // namespace packrat

#endif  // PACKRAT_MODELS_MIXERS_RAT_PLUS_H_
