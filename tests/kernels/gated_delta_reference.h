// The gated delta mixer in double precision, token by token.
#ifndef PACKRAT_TESTS_KERNELS_GATED_DELTA_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_GATED_DELTA_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <deque>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/gated_delta.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {

struct DeltaText {
  int length;
  std::vector<float> qkv, gate, beta, decay;
  Vector expected, tolerance;  // (length, H * D); the tolerance bounds a row of one head's norm
  Vector state;                // (H, E, D) after `state_tokens`
  int state_tokens = 0;
  double state_tolerance = 0;  // Of each element.
};

struct DeltaLayer {
  GatedDeltaShape shape;
  std::vector<float> conv, conv_bias, decay_rate, dt_bias, norm;
  float norm_eps = 1e-6f;

  DeltaLayer(Random* random, const GatedDeltaShape& s) : shape(s) {
    conv = random->Normals(static_cast<size_t>(s.conv_size) * s.channels());
    if (random->Int(0, 1) == 1) conv_bias = random->Normals(s.channels(), 0.5f);
    for (const float x : random->Normals(s.num_value_heads)) decay_rate.push_back(std::exp(x));
    dt_bias = random->Normals(s.num_value_heads);
    norm = random->Normals(s.value_dim, 0.3f, 1.0f);
  }
  std::string Name() const {
    return absl::StrCat("heads ", shape.num_key_heads, "/", shape.num_value_heads, " dims ",
                        shape.key_dim, " and ", shape.value_dim, " conv ", shape.conv_size);
  }
  // `decay`: mean of the decay before its softplus. From -5 on little is forgotten.
  DeltaText RandomText(Random* random, int length, float decay) const {
    const auto n = static_cast<size_t>(length);
    DeltaText text;
    text.length = length;
    text.qkv = random->Normals(n * shape.channels());
    text.gate = random->Normals(n * shape.values());
    text.beta = random->Normals(n * shape.num_value_heads, 2.0f);
    text.decay = random->Normals(n * shape.num_value_heads, 1.0f, decay);
    return text;
  }
};

// Sets the expectations of one head.
//
// The bound, of norms. A step maps an error of the state by g (1 - beta k'k), which shrinks it, and
// adds what it rounds: of the operands (40: convolution, norm, gates), of the products with the
// state (a chain over E) and of a block's sums (16 and 3), relative to |v| and |S|; the decay's
// exponent is off by its own roundings times its size, and where that is large the state is gone.
// The output reads the state once more, with as many roundings; the norm divides by the output's
// size, twice where the error moves it too.
inline void DeltaReferenceHead(const DeltaLayer& layer, int head, DeltaText* text) {
  const GatedDeltaShape& s = layer.shape;
  const int key_head = head / (s.num_value_heads / s.num_key_heads);
  const int keys = s.key_dim, values = s.value_dim;
  std::vector<Vector> state(keys, Vector(values));
  const double roundings = keys + 40 + 16 + 3;
  double state_error = 0;
  for (int t = 0; t < text->length; ++t) {
    const auto convolved = [&](int first, int n) {
      return ShortConvolved(text->qkv, s.channels(), layer.conv, layer.conv_bias, t, first, n);
    };
    Vector q = convolved(key_head * keys, keys);
    Vector k = convolved(s.keys() + key_head * keys, keys);
    const Vector v = convolved(2 * s.keys() + head * values, values);
    const double q_scale = 1 / std::sqrt(Dot(q, q) + 1e-6) / std::sqrt(double{1.0} * keys);
    const double k_scale = 1 / std::sqrt(Dot(k, k) + 1e-6);
    for (int i = 0; i < keys; ++i) q[i] *= q_scale, k[i] *= k_scale;
    const size_t scalar = static_cast<size_t>(t) * s.num_value_heads + head;
    const double beta = Sigmoid(text->beta[scalar]);
    const double a = double{text->decay[scalar]} + layer.dt_bias[head];
    const double log_g = -double{layer.decay_rate[head]} * (a > 30 ? a : std::log1p(std::exp(a)));
    const double g = std::exp(log_g);
    Vector u = v, o(values);
    double size = 0;
    for (int i = 0; i < keys; ++i) {
      for (int d = 0; d < values; ++d) {
        state[i][d] *= g;
        u[d] -= k[i] * state[i][d];
      }
    }
    for (int d = 0; d < values; ++d) u[d] *= beta;
    for (int i = 0; i < keys; ++i) {
      for (int d = 0; d < values; ++d) {
        state[i][d] += k[i] * u[d];
        o[d] += q[i] * state[i][d];
        size += state[i][d] * state[i][d];
      }
    }
    size = std::sqrt(size);
    // The exponent's error: a few roundings of log g, and one of each sum of a block.
    const double decay_error = 8 * kUnit * std::min(-log_g * g, 1.0) + 16 * kUnit;
    state_error = g * state_error + decay_error * size + roundings * kUnit * (Norm(v) + size);
    const double o_error = Norm(q) * (state_error + roundings * kUnit * size);
    const double scale = 1 / std::sqrt(Dot(o, o) / values + layer.norm_eps);
    double largest = 0;
    const size_t at = static_cast<size_t>(t) * s.values() + head * values;
    for (int d = 0; d < values; ++d) {
      const double gate = text->gate[at + d], factor = layer.norm[d] * gate * Sigmoid(gate);
      largest = std::max(largest, std::fabs(factor));
      text->expected[at + d] = o[d] * scale * factor;
    }
    text->tolerance[at] = largest * (2 * o_error * scale + 20 * kUnit * Norm(o) * scale);
    if (t + 1 == text->state_tokens) {
      for (int i = 0; i < keys; ++i) {
        std::copy(state[i].begin(), state[i].end(),
                  text->state.begin() + (static_cast<size_t>(head) * keys + i) * values);
      }
      text->state_tolerance = std::max(text->state_tolerance, state_error);
    }
  }
}

inline void DeltaReference(const DeltaLayer& layer, DeltaText* text) {
  const GatedDeltaShape& s = layer.shape;
  const size_t n = static_cast<size_t>(text->length) * s.values();
  text->expected.assign(n, 0.0);
  text->tolerance.assign(n, 0.0);
  text->state_tokens = text->length / kBlockTokens * kBlockTokens;
  text->state.assign(static_cast<size_t>(s.key_dim) * s.values(), 0.0);
  for (int head = 0; head < s.num_value_heads; ++head) DeltaReferenceHead(layer, head, text);
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_GATED_DELTA_REFERENCE_H_
