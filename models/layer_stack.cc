#include "models/layer_stack.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/feed_forward.h"

namespace packrat {

LayerStack::LayerStack(const ModelConfig& config, const StateLayout& layout, Device* device,
                       DeviceWeights* weights)
    : config_(config), layout_(layout), device_(device) {
  const TensorNames& names = config.names;
  const int d = config.hidden_size;
  embedding_ = weights->Embedding(names.embedding, config.vocab_size, d);
  int mixers = 0;
  for (const Sublayer& sublayer : config.sublayers) {
    sublayers_.push_back(Load(sublayer, mixers, weights));
    mixers += static_cast<int>(sublayer.mixers.size());
  }
  PACKRAT_CHECK(mixers == static_cast<int>(config.mixers.size())) << mixers;
  dials_.reserve(config.num_dials());
  // To scale the logits is to scale what they are made of.
  final_norm_ = weights->Norm(names.final_norm, d, config.norm_plus_one, config.logits_scale);
  head_ = config.tie_embeddings ? weights->Tied(embedding_, names.embedding)
                                : weights->Output(names.head, config.vocab_size, d);
}

LayerStack::Parts LayerStack::Load(const Sublayer& sublayer, int first_mixer,
                                   DeviceWeights* weights) const {
  const int d = config_.hidden_size;
  const std::string prefix = absl::StrCat(config_.names.layers, sublayer.layer, ".");
  std::string norm_name = prefix + sublayer.norm;
  if (!sublayer.norm_or.empty() && !weights->loader()->Has(norm_name)) {
    norm_name = prefix + sublayer.norm_or;
  }
  const auto norm = [&](float scale) {
    return weights->Norm(norm_name, d, config_.norm_plus_one, scale);
  };
  Parts loaded;
  const auto add = [&](int index, float input_scale, float scale, const auto& load) {
    PACKRAT_CHECK(!sublayer.norm_after || input_scale == 1.0f);
    const float* before = sublayer.norm_after ? nullptr : norm(input_scale);
    loaded.parts.push_back({load(), index, before, scale});
  };
  for (size_t i = 0; i < sublayer.mixers.size(); ++i) {
    const MixerPlace& place = sublayer.mixers[i];
    const int index = first_mixer + static_cast<int>(i);
    add(index, place.input_scale, place.scale, [&] {
      return LoadMixer(config_.mixers[index],
                       {d, config_.norm_eps, prefix + place.tensors, device_, weights});
    });
  }
  for (const ExpertsSpec& experts : sublayer.experts) {
    add(-1, 1.0f, config_.feed_forward_scale, [&] {
      return experts.Load({d, config_.norm_eps, prefix, device_, weights});
    });
  }
  if (sublayer.mixers.empty() && !sublayer.experts_alone) {
    add(-1, 1.0f, config_.feed_forward_scale,
        [&] { return std::make_unique<FeedForward>(config_, prefix, *device_, weights); });
  }
  if (sublayer.norm_after) loaded.norm_after = norm(1.0f);
  return loaded;
}

size_t LayerStack::Carve(const Limits& limits, std::byte* base) {
  const auto tokens = static_cast<size_t>(limits.tokens);
  const auto d = static_cast<size_t>(config_.hidden_size);
  size_t per_token = 0, inputs = 1;
  bool norms_after = false;
  for (const Parts& sublayer : sublayers_) {
    for (const Part& part : sublayer.parts) {
      per_token = std::max(per_token, part.mixer->bytes_per_token());
    }
    inputs = std::max(inputs, sublayer.parts.size());
    norms_after |= sublayer.norm_after != nullptr;
  }
  Carver carver(base);
  x_ = carver.Take<float>(tokens * d);
  before_norm_ = norms_after ? carver.Take<float>(tokens * d) : nullptr;
  h_.resize(inputs);
  for (std::byte*& h : h_) {
    h = carver.Take<std::byte>(std::max(limits.tokens, limits.rows) * d *
                               DTypeBytes(device_->type()));
  }
  activations_ = carver.Take<std::byte>(tokens * per_token + kActivationSlack);
  logits_ = carver.Take<float>(size_t{1} * limits.rows * config_.vocab_size);
  device_->Carve(limits.tokens, &carver);
  return carver.used();
}

absl::Status LayerStack::Forward(const Input& input, const ActivationObserver& observe) {
  const BatchView& batch = input.batch;
  const int d = config_.hidden_size;
  absl::Status status =
      device_->Begin(batch, embedding_, input.tokens, config_.embedding_scale, x_, input.totals);
  if (status.ok()) status = Observe(input, observe, 0);
  for (size_t i = 0; i < sublayers_.size() && status.ok(); ++i) {
    status = Run(sublayers_[i], input);
    if (status.ok()) status = Observe(input, observe, static_cast<int>(i) + 1);
  }
  if (status.ok()) status = device_->CheckFinite(batch, x_, d, input.totals);
  if (!status.ok() || input.num_rows == 0) return status;
  status = device_->Norm(x_, input.rows, input.num_rows, d, final_norm_, config_.norm_eps, h_[0]);
  if (!status.ok()) return status;
  status = device_->Multiply(h_[0], input.num_rows, {{head_, logits_, DType::kF32}});
  if (!status.ok() || config_.logits_cap == 0.0f) return status;
  return device_->SoftCap(config_.logits_cap, input.num_rows, config_.vocab_size, logits_);
}

absl::Status LayerStack::Run(const Parts& sublayer, const Input& input) {
  const int d = config_.hidden_size, tokens = input.batch.num_tokens;
  const float eps = config_.norm_eps;
  const std::vector<Part>& parts = sublayer.parts;
  if (parts.size() == 1 && sublayer.norm_after == nullptr) {
    return Run(parts[0], input, parts[0].norm, h_[0], x_);
  }
  // All inputs are made before anything is added to what they are made of.
  absl::Status status = absl::OkStatus();
  for (size_t i = 0; i < parts.size() && status.ok(); ++i) {
    status = parts[i].norm != nullptr
                 ? device_->Norm(x_, nullptr, tokens, d, parts[i].norm, eps, h_[i])
                 : device_->Convert(x_, tokens, d, h_[i]);
  }
  float* to = x_;
  if (sublayer.norm_after != nullptr) {
    to = before_norm_;
    if (status.ok()) status = device_->Clear(to, size_t{1} * tokens * d * sizeof(float));
  }
  for (size_t i = 0; i < parts.size() && status.ok(); ++i) {
    status = Run(parts[i], input, nullptr, h_[i], to);
  }
  if (!status.ok() || sublayer.norm_after == nullptr) return status;
  return device_->AddNorm(to, tokens, d, sublayer.norm_after, eps, x_);
}

absl::Status LayerStack::Run(const Part& part, const Input& input, const float* norm, std::byte* h,
                             float* x) {
  Step step = StepOf(input, input.batch, part.index, 0);
  if (part.index >= 0 && !input.dials.empty()) {
    dials_.clear();
    for (size_t i = 0; i < input.dials.size(); ++i) {
      dials_.push_back(StepOf(input, input.dials[i], part.index, static_cast<int>(i)));
    }
    step.dials = dials_.data();
  }
  return part.mixer->Forward(step, {x_, config_.hidden_size, norm, config_.norm_eps, h},
                             {x, part.scale});
}

Step LayerStack::StepOf(const Input& input, const BatchView& batch, int mixer, int dial) const {
  const MixerPart state = mixer < 0 ? MixerPart() : layout_.ForDial(dial).mixers[mixer];
  StatePages pages;
  if (const int c = state.page_class; c >= 0) {
    const PageMemory& memory = input.memory.pages[c];
    const PageClass& page_class = layout_.page_classes[c];
    const bool whole = memory.plane_pages == 0;
    pages = {memory.base + state.page_offset * (whole ? 1 : memory.plane_pages),
             whole ? page_class.page_bytes : page_class.part_bytes, input.tables[c]};
  }
  return {device_,
          batch,
          pages,
          {input.memory.slots + state.slot_offset, layout_.slot_bytes},
          {input.memory.tails + state.tail_offset, layout_.tail_stride},
          input.totals,
          activations_};
}

absl::Status LayerStack::Observe(const Input& input, const ActivationObserver& observe, int point) {
  if (!observe) return absl::OkStatus();
  auto x = device_->Read(x_, size_t{1} * input.batch.num_tokens * config_.hidden_size);
  if (x.ok()) observe(point, *x);
  return x.status();
}

}  // namespace packrat
