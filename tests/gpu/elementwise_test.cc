#include "kernels/elementwise.h"

#include "tests/gpu/gpu.h"
#include "tests/kernels/random.h"

namespace packrat {
namespace {

class ElementwiseGpuTest : public GpuTest {};

TEST_F(ElementwiseGpuTest, RmsNorm) {
  Random random(1);
  for (const int n : {1, 7, 32, 384, 1000}) {
    const int rows = 3;
    const auto x = random.Normals(static_cast<size_t>(rows) * n), weight = random.Normals(n);
    DeviceArray<float> device_x(x), device_weight(weight), y(x.size());
    ForEachOrder([&] {
      ASSERT_TRUE(gpu::RmsNorm(device_x.data(), rows, n, device_weight.data(), 1e-6f, y.data(),
                               DType::kF32, stream_)
                      .ok());
      Wait();
      const std::vector<float> out = y.Get();
      for (int r = 0; r < rows; ++r) {
        double sum = 0;
        for (int i = 0; i < n; ++i) sum += double{x[r * n + i]} * x[r * n + i];
        for (int i = 0; i < n; ++i) {
          const double expected = x[r * n + i] / std::sqrt(sum / n + 1e-6) * weight[i];
          ASSERT_NEAR(out[r * n + i], expected, (n / 256.0 + 16) * kUnit * std::fabs(expected));
        }
      }
    });
  }
}

}  // namespace
}  // namespace packrat
