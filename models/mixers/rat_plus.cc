#include "models/mixers/rat_plus.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace packrat {
namespace {

class RatPlusMixer : public Mixer {
 public:
  RatPlusMixer(const RatPlusSpec& spec, const MixerLoad& load)
      : width_(spec.shape().width()),
        attention_{spec.num_heads, spec.num_heads, spec.head_dim, /*window=*/0, spec.head_dim},
        type_(load.device->type()),
        rope_(load.device->PlanRope(spec.rope_base, spec.head_dim, 1)),
        in_proj_(
            load.weights->Matrix(load.prefix + "in_proj.weight", 5 * width_, load.hidden_size)),
        out_proj_(load.weights->Matrix(load.prefix + "out_proj.weight", load.hidden_size, width_)) {
    for (int i = 0; i < spec.num_dials(); ++i) {
      const RatPlusSpec at = spec.AtDial(i);
      const bool dense = at.dial.dense();
      dials_.push_back({dense, at.shape(),
                        dense ? load.device->Plan(attention_) : load.device->Plan(at.shape())});
    }
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const int tokens = step.tokens(), stride = in_proj_.out;
    Carver memory(step.activations);
    auto* projection = memory.Take<std::byte>(size_t{1} * tokens * stride * DTypeBytes(type_));
    void* o = memory.Take<std::byte>(size_t{1} * tokens * width_ * DTypeBytes(type_));
    // Side by side: the output's gate, q, k, v and the average's gate.
    const auto part = [&](int i) {
      return projection + size_t{1} * i * width_ * DTypeBytes(type_);
    };
    absl::Status status = device.MultiplyNormed(h, tokens, {{in_proj_, projection, type_}});
    const AttentionOperands operands{part(1), part(2), part(3), stride, device.rope(rope_),
                                     o,       type_};
    for (size_t i = 0; i < dials_.size() && status.ok(); ++i) {
      const Step& of_dial = dials_.size() == 1 ? step : step.dials[i];
      if (of_dial.batch.num_spans == 0) continue;
      const Dial& dial = dials_[i];
      status =
          device.RatPlusAverage(dial.shape, of_dial, {part(2), part(3), part(4), stride, type_});
      if (!status.ok()) return status;
      status = dial.dense ? device.Attention(dial.plan, attention_, of_dial, operands)
                          : device.RatPlusAttention(dial.plan, dial.shape, of_dial, operands);
    }
    if (!status.ok()) return status;
    status = device.SigmoidGate(part(0), stride, tokens, width_, o);
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, o, tokens, nullptr, to);
  }

  size_t bytes_per_token() const override { return (in_proj_.out + width_) * DTypeBytes(type_); }

 private:
  struct Dial {
    bool dense;
    RatPlusShape shape;
    int plan;
  };
  const int width_;
  const AttentionShape attention_;
  const DType type_;
  const int rope_;
  const Weight in_proj_, out_proj_;
  std::vector<Dial> dials_;
};

}  // namespace

int CheckedDilation(JsonFields* fields, const std::string& name, int dilation) {
  if (dilation != 0) return dilation;
  fields->Fail(name,
               absl::StrCat("is 0; must be -1 (none) or an integer from 1 to ", RatPlusDial::kMax));
  return 1;
}

bool LayerDials::operator==(const LayerDials& o) const {
  const size_t count = std::max(layers.size(), o.layers.size());
  for (const LayerDials* dials : {this, &o}) {
    if (dials->layers.size() != 1 && dials->layers.size() != count) return false;
  }
  for (size_t i = 0; i < count; ++i) {
    if (!(Of(i) == o.Of(i))) return false;
  }
  return true;
}

absl::StatusOr<LayerDials> ParseRatPlusDial(const std::string& text) {
  const auto refuse = [&text] {
    return absl::InvalidArgumentError(absl::StrCat(
        "is ", Quoted(text), "; must be DILATION, DILATION,WINDOW or DILATION,WINDOW,SINKS: a ",
        "dilation of -1 (none) or 1 to ", RatPlusDial::kMax, ", the others 0 to ",
        RatPlusDial::kMax, "; each a number for all layers, or one for each with : between them"));
  };
  constexpr int RatPlusDial::*kNumbers[] = {&RatPlusDial::dilation, &RatPlusDial::window,
                                            &RatPlusDial::sinks};
  LayerDials dials;
  dials.layers.resize(1);
  size_t count = 0;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    if (count == std::size(kNumbers)) return refuse();
    const int least = count == 0 ? -1 : 0;
    const std::vector<absl::string_view> each = absl::StrSplit(part, ':');
    if (each.size() > 1 && dials.layers.size() == 1)
      dials.layers.resize(each.size(), dials.layers[0]);
    if (each.size() > 1 && dials.layers.size() != each.size()) return refuse();
    for (size_t i = 0; i < dials.layers.size(); ++i) {
      int number;
      if (!absl::SimpleAtoi(each[each.size() == 1 ? 0 : i], &number) || number < least ||
          number > RatPlusDial::kMax || (count == 0 && number == 0)) {
        return refuse();
      }
      dials.layers[i].*kNumbers[count] = number;
    }
    ++count;
  }
  return dials;
}

absl::StatusOr<std::vector<LayerDials>> ParseRatPlusDials(const std::string& text) {
  std::vector<LayerDials> dials;
  if (text.empty()) return dials;
  for (const absl::string_view part : absl::StrSplit(text, '/')) {
    if (part == kOwnDial) {
      dials.emplace_back();
      continue;
    }
    const auto dial = ParseRatPlusDial(std::string(part));
    if (!dial.ok()) return dial.status();
    dials.push_back(*dial);
  }
  return dials;
}

std::string RatPlusDialText(const LayerDials& dials) {
  const auto numbers = [&dials](int RatPlusDial::*number) {
    const int first = dials.layers[0].*number;
    const auto same = [&](const RatPlusDial& dial) { return dial.*number == first; };
    if (std::all_of(dials.layers.begin(), dials.layers.end(), same)) return absl::StrCat(first);
    return absl::StrJoin(dials.layers, ":", [number](std::string* to, const RatPlusDial& dial) {
      absl::StrAppend(to, dial.*number);
    });
  };
  return absl::StrCat(numbers(&RatPlusDial::dilation), ",", numbers(&RatPlusDial::window), ",",
                      numbers(&RatPlusDial::sinks));
}

std::string RatPlusDial::Lacks(const RatPlusDial& coarser) const {
  if (dense()) return "";
  if (coarser.dense()) return "all tokens";
  const bool ends = coarser.dilation < 0 || (dilation > 0 && coarser.dilation % dilation == 0);
  if (!ends) return absl::StrCat("the ends of stretches of ", coarser.dilation, " tokens");
  if (coarser.window > window) return absl::StrCat("the last ", coarser.window, " tokens");
  return coarser.sinks > sinks ? absl::StrCat("the first ", coarser.sinks, " tokens") : "";
}

RatPlusSpec RatPlusSpec::Read(const std::string&, JsonFields* fields, const SharedFields& shared) {
  RatPlusSpec spec;
  spec.num_heads = fields->Int("num_heads", 1, kMaxHeads);
  spec.head_dim = EvenHeadDim(fields, "num_heads", spec.num_heads, shared.hidden_size);
  const int most = RatPlusDial::kMax;
  spec.dial.dilation = CheckedDilation(fields, "dilation", fields->Int("dilation", -1, most, 1));
  spec.dial.window = fields->Int("window", 0, most, 0);
  spec.dial.sinks = fields->Int("sinks", 0, most, 0);
  spec.rope_base = shared.rope_base;
  return spec;
}

RatPlusSpec RatPlusSpec::AtDial(int number) const {
  RatPlusSpec spec = *this;
  spec.dial = dial_at(number);
  spec.num_others = 0;
  return spec;
}

RatPlusShape RatPlusSpec::shape() const {
  // Where all is seen, nothing is seen for two reasons.
  if (dial.dense()) return {num_heads, head_dim, 1, 0, 0};
  return {num_heads, head_dim, std::max(dial.dilation, 0), dial.window, dial.sinks};
}

AttentionSpec RatPlusSpec::attention() const {
  AttentionSpec spec;
  spec.num_heads = spec.num_kv_heads = num_heads;
  spec.head_dim = head_dim;
  return spec;
}

MixerState RatPlusSpec::State(const StateTypes& types) const {
  const RatPlusShape s = shape();
  MixerState state;
  if (dial.dense()) {
    state = attention().State(types);
  } else if (s.dilation > 0) {
    state.page_bytes = RatPageFloats(num_heads, head_dim) * DTypeBytes(types.pages);
    state.page_class = {PageClass::Kind::kRat, s.dilation, 0, 0, 0, s.delay()};
  }
  state.tail_bytes = RatPlusTailBytes(s, DTypeBytes(types.pages));
  return state;
}

MixerInfo RatPlusSpec::Info() const {
  const RatPlusShape s = shape();
  return {kNames[0], num_heads, head_dim, num_heads, s.dilation, s.window > 0 ? s.window + 1 : 0};
}

std::string RatPlusSpec::Identity() const {
  const RatPlusShape s = shape();
  return absl::StrCat(kNames[0], " ", num_heads, " ", s.dilation, " ", s.window, " ", s.sinks, " ",
                      Exact(rope_base));
}

std::unique_ptr<Mixer> RatPlusSpec::Load(const MixerLoad& load) const {
  return std::make_unique<RatPlusMixer>(*this, load);
}

}  // namespace packrat
