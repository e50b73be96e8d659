// What a gated linear unit (Glu(), kernels/elementwise.h) does to its values.
#ifndef PACKRAT_KERNELS_GATING_CUH_
#define PACKRAT_KERNELS_GATING_CUH_

#include "kernels/device.cuh"

namespace packrat::gpu {

struct SiluOf {
  __device__ __forceinline__ float operator()(float x) const { return Silu(x); }
};
struct GeluTanhOf {
  __device__ __forceinline__ float operator()(float x) const { return GeluTanh(x); }
};

template <class Function>
__device__ __forceinline__ float Gated(const Function& function, float scale, float gate,
                                       float up) {
  return function(scale * gate) * up;
}

}  // namespace packrat::gpu

#endif  // PACKRAT_KERNELS_GATING_CUH_
