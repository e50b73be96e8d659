// Any bytes as a config.json: refused with a message, or a config within the limits that everything
// else relies on.
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "kernels/check.h"
#include "models/config.h"
#include "models/state_layout.h"

namespace packrat {
namespace {

void CheckHeads(int num_heads, int head_dim) {
  PACKRAT_CHECK(num_heads >= 1 && head_dim >= 1 && head_dim <= kMaxHeadDim);
}

void CheckMixer(const RatSpec& rat, int hidden_size) {
  CheckHeads(rat.num_heads, rat.head_dim);
  PACKRAT_CHECK(rat.num_heads * rat.head_dim == hidden_size);
  PACKRAT_CHECK(rat.head_dim % 2 == 0 && rat.chunk_size >= 1);
  PACKRAT_CHECK(rat.num_groups >= 1 && rat.num_heads % rat.num_groups == 0);
}

void CheckMixer(const AttentionSpec& attention, int) {
  CheckHeads(attention.num_heads, attention.head_dim);
  PACKRAT_CHECK(attention.num_heads * attention.head_dim <= kMaxHidden);
  PACKRAT_CHECK(attention.head_dim % 2 == 0 && attention.window >= 0);
  PACKRAT_CHECK(attention.num_kv_heads >= 1);
  PACKRAT_CHECK(attention.num_heads % attention.num_kv_heads == 0);
  const RopeScaling& scaling = attention.rope_scaling;
  PACKRAT_CHECK(scaling.attention_factor > 0.0 && scaling.attention_factor <= 1e6);
  const int rotary = attention.rotary_dim.value_or(attention.head_dim);
  for (double frequency : RopeFrequencies(attention.rope_base, rotary, scaling)) {
    // Nor NaN. What LongRoPE divides by may be less than 1.
    PACKRAT_CHECK(frequency >= 0.0 && frequency < (scaling.divisors.empty() ? 1.01 : 101.0));
  }
}

void CheckMixer(const MesaSpec& mesa, int) {
  CheckHeads(mesa.num_heads, mesa.head_dim);
  PACKRAT_CHECK(mesa.conv_size >= 1 && mesa.lambda_lower_bound >= 0.0f);
}

void CheckMixer(const GatedDeltaSpec& delta, int) {
  CheckHeads(delta.num_key_heads, delta.key_dim);
  CheckHeads(delta.num_value_heads, delta.value_dim);
  PACKRAT_CHECK(delta.num_value_heads % delta.num_key_heads == 0);
  PACKRAT_CHECK(delta.shape().keys() <= kMaxHidden && delta.shape().values() <= kMaxHidden);
  PACKRAT_CHECK(delta.conv_size >= 1 && delta.conv_size <= kMaxConvSize);
}

void CheckMixer(const Mamba2Spec& mamba, int) {
  CheckHeads(mamba.num_heads, mamba.head_dim);
  CheckHeads(mamba.num_groups, mamba.state_size);
  PACKRAT_CHECK(mamba.num_heads % mamba.num_groups == 0);
  PACKRAT_CHECK(mamba.shape().keys() <= kMaxHidden && mamba.shape().values() <= kMaxHidden);
  PACKRAT_CHECK(mamba.conv_size >= 1 && mamba.conv_size <= kMaxConvSize);
  PACKRAT_CHECK(mamba.norm_groups >= 1 && mamba.shape().values() % mamba.norm_groups == 0);
  PACKRAT_CHECK(mamba.dt_min >= 0.0f && mamba.dt_min <= mamba.dt_max);
}

void CheckMixer(const ShortConvSpec& conv, int hidden_size) {
  PACKRAT_CHECK(conv.channels == hidden_size);
  PACKRAT_CHECK(conv.conv_size >= 1 && conv.conv_size <= kMaxConvSize);
}

void CheckMixer(const RgLruSpec& lru, int) {
  PACKRAT_CHECK(lru.num_heads >= 1 && lru.num_heads <= kMaxHeads && lru.head_dim >= 1);
  PACKRAT_CHECK(lru.shape().width() <= kMaxHidden);
  PACKRAT_CHECK(lru.conv_size >= 1 && lru.conv_size <= kMaxConvSize);
}

void CheckMixer(const RatPlusSpec& plus, int hidden_size) {
  CheckHeads(plus.num_heads, plus.head_dim);
  PACKRAT_CHECK(plus.num_heads * plus.head_dim == hidden_size && plus.head_dim % 2 == 0);
  PACKRAT_CHECK(plus.dial.dilation == -1 || plus.dial.dilation >= 1);
  PACKRAT_CHECK(plus.dial.window >= 0 && plus.dial.sinks >= 0);
}

void CheckConfig(const ModelConfig& config) {
  PACKRAT_CHECK(config.vocab_size >= 1 && config.hidden_size >= 1);
  PACKRAT_CHECK(config.intermediate_size >= 1 && config.max_context >= 1);
  PACKRAT_CHECK(config.norm_eps > 0.0f && config.norm_eps <= 1.0f);
  PACKRAT_CHECK(config.bos_id >= -1 && config.bos_id < config.vocab_size);
  for (int id : config.eos_ids) PACKRAT_CHECK(id >= 0 && id < config.vocab_size);
  PACKRAT_CHECK(!config.sublayers.empty());  // All of them may be feed-forwards.
  for (const MixerSpec& layer : config.mixers) {
    std::visit([&](const auto& mixer) { CheckMixer(mixer, config.hidden_size); }, layer);
  }
  for (const Sublayer& sublayer : config.sublayers) {
    for (const ExpertsSpec& experts : sublayer.experts) {
      PACKRAT_CHECK(sublayer.mixers.empty() && experts.width >= 1);
      PACKRAT_CHECK(experts.num_chosen >= 1 && experts.num_chosen <= experts.num_experts);
      PACKRAT_CHECK(experts.num_experts <= kMaxExperts);
    }
  }
  const StateLayout layout(config);
  PACKRAT_CHECK(layout.SequenceBytes(1) <= layout.SequenceBytes(config.max_context));
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<packrat::ModelConfig> config = packrat::ParseModelConfig(text);
  if (config.ok()) {
    packrat::CheckConfig(*config);
  } else {
    PACKRAT_CHECK(config.status().message().size() > std::string("config.json: ").size());
    PACKRAT_CHECK(config.status().message().size() < 4096);  // Not the input, repeated.
  }
  return 0;
}
