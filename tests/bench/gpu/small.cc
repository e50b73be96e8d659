// Matrix products and the small operations between them.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/quant_tiles.h"
#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {
namespace {

struct Projection {
  const char* name;
  int out, in;
};

absl::StatusOr<double> TimeProduct(Bench* bench, gpu::MatMul* products, const Projection& p,
                                   DType type, int rows) {
  const size_t bytes = IsQuantized(type) ? gpu::QuantTilesBytes(type, p.out, p.in)
                                         : size_t(p.out) * p.in * DTypeBytes(type);
  const int copies = bench->Copies(static_cast<double>(bytes), 1);
  // As numbers of quantised weights these are as good as any: scales of about 1.
  BENCH_ASSIGN(gpu::DeviceMemory weights, bench->Random(copies * bytes / 2, DType::kBF16, 0.02f));
  BENCH_ASSIGN(gpu::DeviceMemory x, bench->Random(size_t(rows) * p.in, DType::kBF16, 1.0f));
  BENCH_ASSIGN(gpu::DeviceMemory y,
               gpu::DeviceMemory::Allocate(size_t(rows) * p.out * 2, "a product"));
  return bench->Time(copies, [&](int i, CudaStream stream) {
    const Weight weight{weights.data() + i * bytes, type, p.out, p.in};
    return products->Run({&weight, x.data(), DType::kBF16, rows, y.data(), DType::kBF16}, stream);
  });
}

}  // namespace

void BenchProducts(Bench* bench) {
  const bool tiny = bench->options().tiny;
  std::vector<Projection> projections{{"rat input", 6656, 2048},
                                      {"mixer output", 2048, 2048},
                                      {"gate and up", 11264, 2048},
                                      {"down", 2048, 5632},
                                      {"logits", 32000, 2048}};
  std::vector<int> all_rows{1, 2, 4, 8, 16, 64, 256, 512, 8192};
  if (tiny) projections = {{"tiny", 48, 32}}, all_rows = {1, 5};
  for (const bool deterministic : {false, true}) {
    if (deterministic && bench->options().predict) break;  // The same bytes.
    absl::StatusOr<std::unique_ptr<gpu::MatMul>> products =
        absl::UnavailableError("nothing is run");
    gpu::MatMul::Options options;
    options.deterministic = deterministic;
    if (!bench->options().predict) products = gpu::MatMul::Create(options);
    for (const DType type : {DType::kBF16, DType::kInt8, DType::kInt4}) {
      if (deterministic && type != DType::kBF16) break;  // The same kernels.
      for (const Projection& p : projections) {
        for (const int rows : all_rows) {
          if (rows > 512 && p.out == 32000) continue;  // A prompt has one row of logits.
          if ((deterministic || type != DType::kBF16) && (rows == 2 || rows == 4 || rows == 16)) {
            continue;
          }
          bench->Launch(absl::StrCat("product, ", p.name, deterministic ? ", deterministic" : "",
                                     ", ", type == DType::kBF16 ? "bf16" : DTypeName(type)),
                        absl::StrCat(rows, " rows, ", p.out, " x ", p.in),
                        {{Product(rows, p.out, p.in, type, 2), Rate::kBf16}},
                        [&](std::string*) -> absl::StatusOr<double> {
                          if (!products.ok()) return products.status();
                          return TimeProduct(bench, products->get(), p, type, rows);
                        });
        }
      }
    }
  }
}

void BenchElementwise(Bench* bench) {
  const bool tiny = bench->options().tiny;
  const int d = tiny ? 64 : 2048, inner = tiny ? 96 : 5632;
  const DType type = DType::kBF16;
  for (const int rows : tiny ? std::vector<int>{3} : std::vector<int>{1, 256, 8192}) {
    const std::string shape = absl::StrCat(rows, " rows of ", d);
    const double n = double(rows) * d, m = double(rows) * inner;
    const auto time =
        [&](double bytes,
            const std::function<absl::Status(std::byte * a, std::byte * b, CudaStream)>& run)
        -> absl::StatusOr<double> {
      const int copies = bench->Copies(bytes, 1);
      const size_t a_bytes = static_cast<size_t>(std::max(n * 4, m * 4)), b_bytes = a_bytes / 2;
      BENCH_ASSIGN(gpu::DeviceMemory a, bench->Random(copies * a_bytes / 2, type, 1.0f));
      BENCH_ASSIGN(gpu::DeviceMemory b, bench->Random(copies * b_bytes / 2, type, 1.0f));
      return bench->Time(copies, [&](int i, CudaStream s) {
        return run(a.data() + i * a_bytes, b.data() + i * b_bytes, s);
      });
    };
    Work work;
    work.bytes = n * 6 + d * 4;
    bench->Launch(
        "norm, float32 to bf16", shape, {{work}}, [&](std::string*) -> absl::StatusOr<double> {
          BENCH_ASSIGN(gpu::DeviceMemory weight, bench->Random(d, DType::kF32, 0.1f, 1.0f));
          return time(n * 6, [&](std::byte* a, std::byte* b, CudaStream s) {
            return gpu::RmsNorm(reinterpret_cast<const float*>(a), rows, d,
                                reinterpret_cast<const float*>(weight.data()), 1e-6f, b, type, s);
          });
        });
    work.bytes = m * 6;
    bench->Launch("SwiGLU, bf16", absl::StrCat(rows, " rows of ", inner), {{work}},
                  [&](std::string*) {
                    return time(m * 6, [&](std::byte* a, std::byte* b, CudaStream s) {
                      return gpu::Glu(Gating(), a, rows, inner, b, type, s);
                    });
                  });
    work.bytes = n * 6 + rows * 4.0;
    bench->Launch(
        "embedding, bf16 to float32", shape, {{work}}, [&](std::string*) -> absl::StatusOr<double> {
          const int vocabulary = tiny ? 50 : 32000;
          std::vector<int32_t> ids(rows);
          for (int i = 0; i < rows; ++i) ids[i] = (i * 7919) % vocabulary;
          BENCH_ASSIGN(gpu::DeviceMemory tokens,
                       ToDevice(ids.data(), ids.size() * sizeof(int32_t)));
          BENCH_ASSIGN(gpu::DeviceMemory table, bench->Random(size_t(vocabulary) * d, type, 1.0f));
          return time(n * 6, [&](std::byte* a, std::byte*, CudaStream s) {
            return gpu::Embed(table.data(), type, reinterpret_cast<const int32_t*>(tokens.data()),
                              nullptr, rows, d, 1.0f, reinterpret_cast<float*>(a), {}, s);
          });
        });
  }
}

}  // namespace packrat::gpu_bench
