// The Mamba-2 mixer in double precision, token by token.
#ifndef PACKRAT_TESTS_KERNELS_MAMBA2_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_MAMBA2_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/mamba2.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {

struct MambaText {
  int length;
  std::vector<float> gate, xbc, dt;
  Vector expected, tolerance;  // (length, H * P); the tolerance bounds the norm of a part
  Vector state;                // (H, N, P) after `state_tokens`
  int state_tokens = 0;
  Vector state_tolerance;  // (H): of each element
};

struct MambaLayer {
  Mamba2Shape shape;
  Mamba2Norm gating;
  int norm_groups;
  std::vector<float> conv, conv_bias, decay_rate, skip, dt_bias, norm;
  float norm_eps = 1e-6f;
  float dt_min = 0.0f, dt_max = std::numeric_limits<float>::infinity();
  float dt_scale, gate_scale;

  MambaLayer(Random* random, const Mamba2Shape& s, Mamba2Norm g, int parts)
      : shape(s), gating(g), norm_groups(parts) {
    conv = random->Normals(static_cast<size_t>(s.conv_size) * s.channels());
    if (random->Int(0, 1) == 1) conv_bias = random->Normals(s.channels(), 0.5f);
    for (const float x : random->Normals(s.num_heads)) decay_rate.push_back(std::exp(x));
    skip = random->Normals(s.num_heads);
    dt_bias = random->Normals(s.num_heads);
    if (g != Mamba2Norm::kNone) norm = random->Normals(s.values(), 0.3f, 1.0f);
    dt_scale = random->OneOf<float>({1.0f, 0.3f});
    gate_scale = random->OneOf<float>({1.0f, 0.35f});
  }
  std::string Name() const {
    return absl::StrCat("heads ", shape.num_heads, "/", shape.num_groups, " dim ", shape.head_dim,
                        " state ", shape.state_size, " conv ", shape.conv_size, " gating ",
                        static_cast<int>(gating));
  }
  // Channels that are normed together, or have a tolerance of their own.
  int part() const {
    return gating == Mamba2Norm::kNone ? shape.head_dim : shape.values() / norm_groups;
  }
  // `dt`: mean of the step before its softplus. From -5 on little is forgotten.
  MambaText RandomText(Random* random, int length, float dt) const {
    const auto n = static_cast<size_t>(length);
    MambaText text;
    text.length = length;
    text.gate = random->Normals(n * shape.values());
    text.xbc = random->Normals(n * shape.channels());
    text.dt = random->Normals(n * shape.num_heads, 1.0f, dt / dt_scale);
    return text;
  }
};

// y of one head (length, H * P), and a bound of each token's error (length, H).
//
// The bound, of norms. A step multiplies an error of the state by g and adds what it rounds: of the
// operands (40: convolutions and silu) and of a block's sums (16 and 3), relative to |B| |u|; the
// step's size is off by its own roundings and those of the sum before its softplus, the decay's
// exponent by that times its size, and where that is large the state is gone. The output reads the
// state, a chain over N.
inline void MambaReferenceHead(const MambaLayer& layer, int head, MambaText* text, Vector* all,
                               Vector* errors) {
  const Mamba2Shape& s = layer.shape;
  const int group = head / (s.num_heads / s.num_groups), dim = s.head_dim, size = s.state_size;
  std::vector<Vector> state(size, Vector(dim));
  const double roundings = size + 40 + 16 + 3;
  double state_error = 0;
  for (int t = 0; t < text->length; ++t) {
    const auto convolved = [&](int first, int n) {
      return ShortConvolved(text->xbc, s.channels(), layer.conv, layer.conv_bias, t, first, n);
    };
    const Vector x = convolved(head * dim, dim);
    const int first = s.values() + group * size;
    const Vector b = convolved(first, size), c = convolved(first + s.keys(), size);
    const size_t scalar = static_cast<size_t>(t) * s.num_heads + head;
    const double scaled = double{text->dt[scalar]} * layer.dt_scale;
    const double a = scaled + layer.dt_bias[head];
    const double softplus = a > 30 ? a : std::log1p(std::exp(a));
    const double dt = std::clamp(softplus, double{layer.dt_min}, double{layer.dt_max});
    const double dt_error = (8 + std::fabs(scaled) + std::fabs(a)) * kUnit;  // Relative.
    const double log_g = -double{layer.decay_rate[head]} * dt;
    const double g = std::exp(log_g);
    double squares = 0;
    Vector y(dim);
    for (int i = 0; i < size; ++i) {
      for (int d = 0; d < dim; ++d) {
        state[i][d] = g * state[i][d] + b[i] * dt * x[d];
        y[d] += c[i] * state[i][d];
        squares += state[i][d] * state[i][d];
      }
    }
    const double norm = std::sqrt(squares), u = dt * Norm(x);
    const double decay_error = (dt_error + 8 * kUnit) * std::min(-log_g * g, 1.0) + 16 * kUnit;
    state_error = g * state_error + decay_error * norm +
                  (roundings * kUnit + dt_error) * Norm(b) * u + 4 * kUnit * norm +
                  0x1p-126;  // Below that, float32 has no digits left.
    const double skip = layer.skip[head];
    for (int d = 0; d < dim; ++d) {
      (*all)[static_cast<size_t>(t) * s.values() + head * dim + d] = y[d] + skip * x[d];
    }
    (*errors)[scalar] = Norm(c) * (state_error + roundings * kUnit * norm) +
                        roundings * kUnit * std::fabs(skip) * Norm(x);
    if (t + 1 == text->state_tokens) {
      for (int i = 0; i < size; ++i) {
        std::copy(state[i].begin(), state[i].end(),
                  text->state.begin() + (static_cast<size_t>(head) * size + i) * dim);
      }
      text->state_tolerance[head] = state_error;
    }
  }
}

// Gate and norm of one part of a token's channels, from `at` on, whose y is off by `error`.
inline void MambaFinish(const MambaLayer& layer, const Vector& y, size_t at, double error,
                        MambaText* text) {
  const int width = layer.part(), values = layer.shape.values();
  Vector v(y.begin() + static_cast<ptrdiff_t>(at), y.begin() + static_cast<ptrdiff_t>(at) + width);
  Vector gate(width);
  double largest = 0;
  for (int d = 0; d < width; ++d) {
    const double z = double{text->gate[at + d]} * layer.gate_scale;
    gate[d] = z * Sigmoid(z);
    largest = std::max(largest, std::fabs(gate[d]));
  }
  const bool before = layer.gating == Mamba2Norm::kBeforeGate;
  if (!before) {
    for (int d = 0; d < width; ++d) v[d] *= gate[d];
    error = largest * error + 20 * kUnit * Norm(v);
  }
  if (layer.gating != Mamba2Norm::kNone) {
    const double scale = 1 / std::sqrt(Dot(v, v) / width + layer.norm_eps);
    largest = 0;
    for (int d = 0; d < width; ++d) {
      const double factor = layer.norm[at % values + d] * (before ? gate[d] : 1);
      largest = std::max(largest, std::fabs(factor));
      v[d] *= scale;
      text->expected[at + d] = v[d] * factor;
    }
    // The scale is off as the part is, and once more by its own roundings.
    error = largest * (2 * error * scale + (20 + width / 16.0) * kUnit * Norm(v));
  } else {
    std::copy(v.begin(), v.end(), text->expected.begin() + static_cast<ptrdiff_t>(at));
  }
  text->tolerance[at] = error;
}

inline void MambaReference(const MambaLayer& layer, MambaText* text) {
  const Mamba2Shape& s = layer.shape;
  const size_t n = static_cast<size_t>(text->length) * s.values();
  text->expected.assign(n, 0.0);
  text->tolerance.assign(n, 0.0);
  text->state_tokens = text->length / kBlockTokens * kBlockTokens;
  text->state.assign(static_cast<size_t>(s.state_size) * s.values(), 0.0);
  text->state_tolerance.assign(s.num_heads, 0.0);
  Vector y(n), errors(static_cast<size_t>(text->length) * s.num_heads);
  for (int head = 0; head < s.num_heads; ++head) {
    MambaReferenceHead(layer, head, text, &y, &errors);
  }
  for (size_t at = 0; at < n; at += layer.part()) {
    // Of the heads that the part touches.
    const size_t first = at / s.head_dim, last = (at + layer.part() - 1) / s.head_dim;
    double squares = 0;
    for (size_t i = first; i <= last; ++i) squares += errors[i] * errors[i];
    MambaFinish(layer, y, at, std::sqrt(squares), text);
  }
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_MAMBA2_REFERENCE_H_
