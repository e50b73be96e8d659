#include "tests/bench/gpu/work.h"

#include <algorithm>
#include <utility>

#include "kernels/quantized.h"

namespace packrat::gpu_bench {

Work Sum(const Kernels& kernels) {
  Work sum;
  for (const Kernel& kernel : kernels) sum += kernel.work;
  return sum;
}

Floor FloorOf(const Kernels& kernels, const Limits& limits) {
  double by_bytes = 0, by_bf16 = 0, by_f32 = 0;
  for (const auto& [work, rate] : kernels) {
    const double bytes = work.bytes / limits.bytes_per_second;
    double flops = 0;
    if (rate == Rate::kBf16) flops = work.flops / limits.bf16_flops;
    if (rate == Rate::kF32) flops = work.flops / limits.f32_flops;
    (bytes >= flops ? by_bytes : rate == Rate::kBf16 ? by_bf16 : by_f32) += std::max(bytes, flops);
  }
  Floor floor;
  floor.seconds = by_bytes + by_bf16 + by_f32;
  floor.by_bytes = by_bytes >= by_bf16 + by_f32;
  for (const auto& [seconds, name] :
       {std::pair(by_bytes, "bandwidth"), std::pair(by_bf16, "bf16 products"),
        std::pair(by_f32, "float32 operations")}) {
    if (seconds == 0) continue;
    if (!floor.limited_by.empty()) floor.limited_by += " and ";
    floor.limited_by += name;
  }
  return floor;
}

Work RatToken(const RatShape& s, int type_bytes, int position) {
  const double width = double(s.num_heads) * s.head_dim, entry = 2 * width * type_bytes;
  const int entries = position / s.chunk_size;
  Work work;
  work.bytes = entries * entry + entry / s.chunk_size;
  work.bytes += double(s.projection()) * type_bytes + width * type_bytes;
  work.bytes += 2 * 2 * width * 4;  // The running chunk, both ways.
  work.bytes += s.head_dim * 4.0;   // The rotary row.
  work.flops = 4 * width * (entries + 1) + 20 * width;
  return work;
}

Work RatPrompt(const RatShape& s, int type_bytes, int tokens) {
  const double width = double(s.num_heads) * s.head_dim, entry = 2 * width * type_bytes;
  const int chunks = tokens / s.chunk_size;
  Work work;
  work.bytes = double(tokens) * (s.projection() + width) * type_bytes;
  work.bytes += 2 * chunks * entry + tokens * s.head_dim * 4.0;
  work.flops = tokens * (4 * width * (chunks / 2.0 + 1) + 20 * width);
  return work;
}

Work RatPlusToken(const RatPlusShape& s, int type_bytes, int position) {
  const double entry = 2.0 * s.width() * type_bytes;
  const int entries = s.Far(position) + std::min(s.window, position);
  Work work;
  work.bytes = (entries + 1) * entry + (s.dilation > 0 ? 2 * entry / s.dilation : 0.0);
  work.bytes += 4.0 * s.width() * type_bytes + s.head_dim * 4.0;
  work.flops = 4.0 * s.width() * (entries + 1);
  return work;
}

Work AttentionToken(const AttentionShape& s, int type_bytes, int position) {
  const double entry = 2.0 * s.num_kv_heads * s.head_dim * type_bytes;
  const double width = double(s.num_heads) * s.head_dim;
  const double visible = s.window > 0 && s.window - 1 < position ? s.window - 1 : position;
  Work work;
  work.bytes = (visible + 1) * entry;            // Others read, its own written,
  work.bytes += entry + 2 * width * type_bytes;  // activations,
  work.bytes += s.head_dim * 4.0;                // the rotary row.
  work.flops = 4 * width * (visible + 1);
  return work;
}

Work AttentionPrompt(const AttentionShape& s, int type_bytes, int tokens) {
  const double entry = 2.0 * s.num_kv_heads * s.head_dim * type_bytes;
  const double width = double(s.num_heads) * s.head_dim;
  const double visible = s.window > 0 && s.window < tokens ? s.window : tokens / 2.0;
  Work work;
  work.bytes = tokens * (3 * entry + 2 * width * type_bytes + s.head_dim * 4.0);
  work.flops = tokens * 4 * width * visible;
  return work;
}

double MesaStateBytesPerHead(const MesaShape& s, int state_bytes) {
  const double d = s.head_dim, sealed = (d * (d + 1) / 2 + d * d) * state_bytes;
  const double mean_rows = (kBlockTokens - 1) / 2.0;
  const double tail = (mean_rows + 1) * (2 * d + 2) * 4;
  const double convolution = 2 * (s.conv_size - 1 + 1) * d * 4;  // Read, and one row written.
  return sealed * (1 + 1.0 / kBlockTokens) + tail + convolution;
}

Work MesaToken(const MesaShape& s, int type_bytes, int state_bytes, double steps, bool gate) {
  const double d = s.head_dim, rows = (kBlockTokens - 1) / 2.0 + 1;
  Work work;
  work.bytes = s.num_heads * MesaStateBytesPerHead(s, state_bytes);
  work.bytes += s.width() * type_bytes * (gate ? 5.0 : 4.0) + s.num_heads * 2 * 4.0;
  const double product = 2 * d * d + 4 * rows * d;  // One of H_kk, its tail's part included.
  const double step = product + 12 * d;
  const double sealing = 2 * (d * (d + 1) / 2 + d * d) + d * d;  // Per token of a block.
  work.flops = s.num_heads * (steps * step + product + sealing);
  return work;
}

Work MesaPrompt(const MesaShape& s, int type_bytes, int state_bytes, double steps, bool gate,
                int tokens) {
  const double d = s.head_dim;
  Work work;
  work.bytes = tokens * (s.width() * type_bytes * (gate ? 5.0 : 4.0) + s.num_heads * 2 * 4.0);
  // Each block's sealed matrices are made once and read once by its solves.
  work.bytes += 2.0 * tokens / kBlockTokens * s.num_heads * (d * (d + 1) / 2 + d * d) * state_bytes;
  work.flops = MesaToken(s, type_bytes, state_bytes, steps, gate).flops * tokens;
  return work;
}

double WeightBytes(DType type) {
  if (IsQuantized(type)) return double(StoredGroupBytes(type)) / kQuantGroup;
  return double(DTypeBytes(type));
}

Work Product(int rows, int out, int in, DType weight, int y_bytes) {
  Work work;
  work.bytes =
      double(out) * in * WeightBytes(weight) + double(rows) * in * 2 + double(rows) * out * y_bytes;
  work.flops = 2.0 * rows * out * in;
  return work;
}

namespace {

RatShape RatOf(const RandomModelShape& s) { return {s.heads, 2, s.hidden_size / s.heads, 16}; }

double LayerParameters(const RandomModelShape& s) {
  const double d = s.hidden_size;
  const double rat = (RatOf(s).projection() + d) * d + d;
  return rat + 3 * d * s.intermediate_size + 2 * d;
}

}  // namespace

double ModelParameters(const RandomModelShape& s) {
  return s.layer_types.size() * LayerParameters(s) + double(s.vocab_size + 1) * s.hidden_size;
}

Kernels ModelDecode(const RandomModelShape& s, int batch, int position, DType weights) {
  const auto layers = static_cast<double>(s.layer_types.size());
  const double width = s.hidden_size, entry = 2 * width * 2;
  const int entries = position / 16;
  // Entries, the running chunk and the L-th of an entry's write, without the activations.
  const Work mixer{batch * (entries * entry + entry / 16 + 2 * 2 * width * 4),
                   batch * RatToken(RatOf(s), 2, position).flops};
  Kernels kernels;
  double products = 0;
  const auto product = [&](double out, double in, DType type, double times) {
    kernels.push_back(
        {Work{out * in * WeightBytes(type), 2 * out * in * batch} * times, Rate::kBf16});
    products += out * in * times;
  };
  product(RatOf(s).projection(), width, weights, layers);
  product(width, width, weights, layers);
  product(2 * s.intermediate_size, width, weights, layers);
  product(width, s.intermediate_size, weights, layers);
  // The embedding is the output matrix, too.
  product(s.vocab_size, width, IsQuantized(weights) ? DType::kInt8 : weights, 1);
  kernels.push_back({mixer * layers, Rate::kF32});
  kernels.push_back({{2 * (ModelParameters(s) - products), 0}});  // Norms and biases.
  return kernels;
}

double ModelPromptFlops(const RandomModelShape& s, int tokens) {
  const double products = 2.0 * tokens * s.layer_types.size() * LayerParameters(s);
  const double head = 2.0 * s.vocab_size * s.hidden_size;
  return products + head + s.layer_types.size() * RatPrompt(RatOf(s), 2, tokens).flops;
}

RandomModelShape Rat1300M() {
  RandomModelShape shape;
  shape.layer_types.assign(24, "rat");
  shape.hidden_size = 2048;
  shape.intermediate_size = 5632;
  return shape;
}

}  // namespace packrat::gpu_bench
