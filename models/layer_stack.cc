#include "models/layer_stack.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace packrat {

LayerStack::LayerStack(const ModelConfig& config, const StateLayout& layout, Device* device,
                       DeviceWeights* weights)
    : config_(config), layout_(layout), device_(device) {
  const TensorNames& names = config.names;
  const int d = config.hidden_size;
  embedding_ = weights->Stored({{names.embedding, config.vocab_size}}, d);
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const std::string prefix = absl::StrCat(names.layers, i, ".");
    const float* mixer_norm = weights->Norm(prefix + names.mixer_norm, d, config.norm_plus_one);
    const std::string& name = config.mixer_names.empty() ? names.mixer : config.mixer_names[i];
    auto mixer = LoadMixer(config.layers[i], {d, config.norm_eps, prefix + name, device, weights});
    const float* norm = weights->Norm(prefix + names.feed_forward_norm, d, config.norm_plus_one);
    layers_.push_back(
        {mixer_norm, std::move(mixer), norm, FeedForward(config, prefix, *device, weights)});
  }
  final_norm_ = weights->Norm(names.final_norm, d, config.norm_plus_one);
  head_ = config.tie_embeddings ? weights->Tied(embedding_, names.embedding)
                                : weights->Output(names.head, config.vocab_size, d);
}

size_t LayerStack::Carve(const Limits& limits, std::byte* base) {
  const auto tokens = static_cast<size_t>(limits.tokens);
  const auto d = static_cast<size_t>(config_.hidden_size);
  size_t per_token = 0;
  for (const Layer& layer : layers_) {
    per_token =
        std::max({per_token, layer.mixer->bytes_per_token(), layer.feed_forward.bytes_per_token()});
  }
  Carver carver(base);
  x_ = carver.Take<float>(tokens * d);
  h_ = carver.Take<std::byte>(std::max(limits.tokens, limits.rows) * d *
                              DTypeBytes(device_->type()));
  activations_ = carver.Take<std::byte>(tokens * per_token + kActivationSlack);
  logits_ = carver.Take<float>(size_t{1} * limits.rows * config_.vocab_size);
  totals_ = carver.Take<SpanTotals>(limits.spans);
  device_->Carve(limits.tokens, &carver);
  return carver.used();
}

absl::Status LayerStack::Forward(const Input& input, const ActivationObserver& observe) {
  const BatchView& batch = input.batch;
  const int d = config_.hidden_size, tokens = batch.num_tokens;
  const float eps = config_.norm_eps;
  absl::Status status = device_->Begin(batch, totals_);
  if (status.ok()) status = device_->Embed(embedding_, input.tokens, tokens, x_);
  if (!status.ok()) return status;
  status = Observe(input, observe, -1, LayerPart::kFeedForward);
  for (size_t i = 0; i < layers_.size() && status.ok(); ++i) {
    const Layer& layer = layers_[i];
    const int number = static_cast<int>(i);
    const Step step = StepOf(input, number);
    status = layer.mixer->Forward(step, {x_, d, layer.mixer_norm, eps, h_}, x_);
    if (!status.ok()) return status;
    status = Observe(input, observe, number, LayerPart::kMixer);
    if (!status.ok()) return status;
    status = layer.feed_forward.Forward(step, {x_, d, layer.feed_forward_norm, eps, h_}, x_);
    if (!status.ok()) return status;
    status = Observe(input, observe, number, LayerPart::kFeedForward);
  }
  if (status.ok()) status = device_->CheckFinite(batch, x_, d, totals_);
  if (!status.ok() || input.num_rows == 0) return status;
  status = device_->Norm(x_, input.rows, input.num_rows, d, final_norm_, eps, h_);
  if (!status.ok()) return status;
  return device_->Multiply(h_, input.num_rows, {{head_, logits_, DType::kF32}});
}

Step LayerStack::StepOf(const Input& input, int layer) const {
  const LayerState& state = layout_.layers[layer];
  StatePages pages;
  if (const int c = state.page_class; c >= 0) {
    pages = {input.memory.pages[c] + state.page_offset, layout_.page_classes[c].page_bytes,
             input.tables[c]};
  }
  return {device_,
          input.batch,
          pages,
          {input.memory.slots + state.slot_offset, layout_.slot_bytes},
          {input.memory.tails + state.tail_offset, layout_.tail_bytes},
          totals_,
          activations_};
}

absl::Status LayerStack::Observe(const Input& input, const ActivationObserver& observe, int layer,
                                 LayerPart part) {
  if (!observe) return absl::OkStatus();
  auto x = device_->Read(x_, size_t{1} * input.batch.num_tokens * config_.hidden_size);
  if (x.ok()) observe(layer, part, *x);
  return x.status();
}

}  // namespace packrat
