// The Mesa layer's mixer in double precision, token by token: the matrices are formed, the systems
// solved by Cholesky's factors.
#ifndef PACKRAT_TESTS_KERNELS_MESA_REFERENCE_H_
#define PACKRAT_TESTS_KERNELS_MESA_REFERENCE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/mesa.h"
#include "tests/kernels/random.h"
#include "tests/kernels/reference.h"

namespace packrat {

using Matrix = std::vector<Vector>;

inline Vector Times(const Vector& x, const Matrix& m) {  // x' M
  Vector y(m[0].size());
  for (size_t i = 0; i < m.size(); ++i) {
    for (size_t j = 0; j < y.size(); ++j) y[j] += x[i] * m[i][j];
  }
  return y;
}
inline double Frobenius(const Matrix& m) {
  double sum = 0;
  for (const Vector& row : m) sum += Dot(row, row);
  return std::sqrt(sum);
}

inline Vector CholeskySolve(Matrix a, Vector b) {
  const size_t n = b.size();
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < j; ++k) a[j][j] -= a[j][k] * a[j][k];
    a[j][j] = std::sqrt(a[j][j]);
    for (size_t i = j + 1; i < n; ++i) {
      for (size_t k = 0; k < j; ++k) a[i][j] -= a[i][k] * a[j][k];
      a[i][j] /= a[j][j];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) b[i] -= a[i][k] * b[k];
    b[i] /= a[i][i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) b[i] -= a[k][i] * b[k];
    b[i] /= a[i][i];
  }
  return b;
}

// Conjugate gradients of so many steps from the Jacobi start.
inline Vector SomeSteps(const Matrix& a, const Vector& q, int steps) {
  const size_t n = q.size();
  Vector x(n);
  for (size_t i = 0; i < n; ++i) x[i] = q[i] / a[i][i];
  Vector r = q;
  const Vector ax = Times(x, a);
  for (size_t i = 0; i < n; ++i) r[i] -= ax[i];
  Vector p = r;
  for (int step = 0; step < steps && Norm(r) > 0; ++step) {
    const Vector ap = Times(p, a);
    const double rr = Dot(r, r), alpha = rr / Dot(p, ap);
    for (size_t i = 0; i < n; ++i) x[i] += alpha * p[i], r[i] -= alpha * ap[i];
    const double beta = Dot(r, r) / rr;
    for (size_t i = 0; i < n; ++i) p[i] = r[i] + beta * p[i];
  }
  return x;
}

struct MesaText {
  int length;
  std::vector<float> q, k, v, beta, gamma, gate;
  Vector expected, tolerance;  // (length, H * D); the tolerance bounds a row of one head's norm
  Vector residual,
      residual_error;  // (length, H), relative; of SomeSteps() where those were asked for
};

// What a layer is made of, and how to solve.
struct MesaLayer {
  MesaShape shape;
  std::vector<float> conv_q, conv_k, conv_q_bias, conv_k_bias, lambda, o_norm;
  bool gated;
  float norm_eps = 1e-6f, cg_tolerance = 1e-6f;
  int cg_max_steps = 64;

  MesaLayer(Random* random, const MesaShape& s) : shape(s), gated(random->Int(0, 1) == 1) {
    const int width = s.width();
    conv_q = random->Normals(static_cast<size_t>(s.conv_size) * width);
    conv_k = random->Normals(static_cast<size_t>(s.conv_size) * width);
    if (random->Int(0, 1) == 1) conv_q_bias = random->Normals(width, 0.5f);
    if (random->Int(0, 1) == 1) conv_k_bias = random->Normals(width, 0.5f);
    for (const float x : random->Normals(width)) lambda.push_back(std::log1p(std::exp(x)) + 0.25f);
    o_norm = random->Normals(s.head_dim, 0.3f, 1.0f);
  }
  MesaWeights weights() const {
    return {conv_q.data(),
            conv_k.data(),
            conv_q_bias.empty() ? nullptr : conv_q_bias.data(),
            conv_k_bias.empty() ? nullptr : conv_k_bias.data(),
            lambda.data(),
            o_norm.data(),
            norm_eps};
  }
  // `gamma`: mean of the decay before its logsigmoid.
  MesaText RandomText(Random* random, int length, float gamma) const {
    const size_t n = static_cast<size_t>(length) * shape.width(),
                 h = static_cast<size_t>(length) * shape.num_heads;
    return {length,
            random->Normals(n),
            random->Normals(n),
            random->Normals(n),
            random->Normals(h),
            random->Normals(h, gamma > 5 ? 0.0f : 1.0f, gamma),
            random->Normals(n),
            Vector(),
            Vector(),
            Vector(),
            Vector()};
  }
};

// Short convolution over the projected inputs, silu, l2 norm.
inline Vector Convolved(const MesaLayer& layer, const std::vector<float>& x,
                        const std::vector<float>& taps, const std::vector<float>& bias, int t,
                        int head) {
  const int dim = layer.shape.head_dim;
  Vector y = ShortConvolved(x, layer.shape.width(), taps, bias, t, head * dim, dim);
  const double scale = 1 / std::sqrt(Dot(y, y) + 1e-6);
  for (double& value : y) value *= scale;
  return y;
}

// Sets the expectations of one head. steps < 0: the exact solution.
//
// The bound, of norms. A float32 residual is off by roundings of the products with the matrix, each
// relative to |A| |x|: D / 16 + 5 of a dot product, 40 for the operands (convolution, norm, decay,
// beta), 3 for each block that the state went through and 16 for the block's own sum, and one for
// each of up to 64 updates of x. That and the solver's tolerance, over the smallest eigenvalue (at
// least the smallest lambda), bound the error of x; the read-out multiplies it by |H_kv| and has as
// many roundings of its own; the norm divides by the output's size, twice where the error moves it
// too. A cut iteration amplifies what it has by up to one more residual for each step.
inline void MesaReferenceHead(const MesaLayer& layer, int head, int steps, MesaText* text) {
  const MesaShape& s = layer.shape;
  const int dim = s.head_dim, width = s.width();
  Matrix hkk(dim, Vector(dim)), hkv = hkk;
  double smallest = 1e300;
  for (int d = 0; d < dim; ++d) {
    smallest = std::min(smallest, double{layer.lambda[head * dim + d]});
  }
  for (int t = 0; t < text->length; ++t) {
    const size_t at = static_cast<size_t>(t) * width + head * dim;
    const size_t scalar = static_cast<size_t>(t) * s.num_heads + head;
    const Vector q = Convolved(layer, text->q, layer.conv_q, layer.conv_q_bias, t, head);
    const Vector k = Convolved(layer, text->k, layer.conv_k, layer.conv_k_bias, t, head);
    const double beta = Sigmoid(text->beta[scalar]), gamma = Sigmoid(text->gamma[scalar]);
    for (int i = 0; i < dim; ++i) {
      for (int j = 0; j < dim; ++j) {
        hkk[i][j] = gamma * hkk[i][j] + beta * k[i] * k[j];
        hkv[i][j] = gamma * hkv[i][j] + beta * k[i] * text->v[at + j];
      }
    }
    Matrix a = hkk;
    for (int i = 0; i < dim; ++i) a[i][i] += layer.lambda[head * dim + i];
    const Vector x = steps < 0 ? CholeskySolve(a, q) : SomeSteps(a, q, steps);
    const Vector o = Times(x, hkv);

    const double roundings = dim / 16.0 + 5 + 40 + 3.0 * t / 16 + 16 + 64;
    const double amplified = steps < 0 ? 1 : steps + 1;
    const double residual_error =
        roundings * amplified * kUnit * (Frobenius(a) * Norm(x) + Norm(q));
    const double stop = steps < 0 ? layer.cg_tolerance * std::max(Norm(q), 1e-10) : 0;
    const double o_error =
        Frobenius(hkv) * ((residual_error + stop) / smallest + roundings * kUnit * Norm(x));
    const double mean = Dot(o, o) / dim, scale = 1 / std::sqrt(mean + layer.norm_eps);
    double largest = 0;
    for (int d = 0; d < dim; ++d) {
      const double g = text->gate[at + d];
      const double factor = layer.o_norm[d] * (layer.gated ? g * Sigmoid(g) : 1);
      largest = std::max(largest, std::fabs(factor));
      text->expected[at + d] = o[d] * scale * factor;
    }
    text->tolerance[at] = largest * (2 * o_error * scale + 20 * kUnit * Norm(o) * scale);
    Vector r = Times(x, a);
    for (int d = 0; d < dim; ++d) r[d] = q[d] - r[d];
    text->residual[scalar] = Norm(q) > 0 ? Norm(r) / Norm(q) : 0;
    text->residual_error[scalar] = Norm(q) > 0 ? residual_error / Norm(q) : 0;
  }
}

inline void MesaReference(const MesaLayer& layer, int steps, MesaText* text) {
  const size_t width = static_cast<size_t>(text->length) * layer.shape.width(),
               heads = static_cast<size_t>(text->length) * layer.shape.num_heads;
  text->expected.assign(width, 0.0);
  text->tolerance.assign(width, 0.0);
  text->residual.assign(heads, 0.0);
  text->residual_error.assign(heads, 0.0);
  for (int head = 0; head < layer.shape.num_heads; ++head) {
    MesaReferenceHead(layer, head, steps, text);
  }
}

// The sealed state after `tokens` of a text by its documented layout: symmetric H_kk in blocks of
// its lower triangle, H_kv, and zeros in the padding. `slot`: all heads.
inline void ExpectSealed(const MesaLayer& layer, const MesaText& text, int tokens,
                         const float* slot) {
  const int heads = layer.shape.num_heads, dim = layer.shape.head_dim,
            padded = (dim + 15) / 16 * 16;
  for (int head = 0; head < heads; ++head) {
    Matrix hkk(padded, Vector(padded)), hkv = hkk;
    for (int t = 0; t < tokens; ++t) {
      const Vector k = Convolved(layer, text.k, layer.conv_k, layer.conv_k_bias, t, head);
      const double beta = Sigmoid(text.beta[t * heads + head]),
                   gamma = Sigmoid(text.gamma[t * heads + head]);
      for (int i = 0; i < dim; ++i) {
        for (int j = 0; j < dim; ++j) {
          const double v = text.v[(t * heads + head) * dim + j];
          hkk[i][j] = gamma * hkk[i][j] + beta * k[i] * k[j];
          hkv[i][j] = gamma * hkv[i][j] + beta * k[i] * v;
        }
      }
    }
    // 40 roundings of the operands, 16 of a block's sum, 3 of each block, each relative to the
    // norm.
    const double roundings = 40 + 16 + 3.0 * tokens / 16;
    const double hkk_tolerance = roundings * kUnit * Frobenius(hkk),
                 hkv_tolerance = roundings * kUnit * Frobenius(hkv);
    const float* at = slot + head * MesaHeadFloats(dim);
    for (int i = 0; i < padded; ++i) {
      for (int j = 0; j < padded; ++j) {
        const int row = std::max(i, j) / 16, column = std::min(i, j) / 16;
        const int r = row == i / 16 ? i % 16 : j % 16, c = row == i / 16 ? j % 16 : i % 16;
        ASSERT_NEAR(at[(row * (row + 1) / 2 + column) * 256 + r * 16 + c], hkk[i][j],
                    hkk_tolerance);
        ASSERT_NEAR(at[MesaHkkFloats(dim) + i * padded + j], hkv[i][j], hkv_tolerance);
      }
    }
  }
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_KERNELS_MESA_REFERENCE_H_
