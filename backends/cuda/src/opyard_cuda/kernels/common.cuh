// What all kernels share. No header is included, so none has to be found where NVRTC runs.

struct __align__(2) float16 { unsigned short bits; };
struct __align__(2) bfloat16 { unsigned short bits; };

// The type to compute in.
template <typename T> struct WideOf { typedef float type; };
template <> struct WideOf<double> { typedef double type; };

__device__ inline float widened(float x) { return x; }
__device__ inline double widened(double x) { return x; }
__device__ inline float widened(bfloat16 x) { return __uint_as_float((unsigned int)x.bits << 16); }
__device__ inline float widened(float16 x) {
#ifdef OPYARD_EMULATED
  return emulation::half_to_float(x.bits);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
#endif
}

template <typename T> __device__ inline T narrowed(typename WideOf<T>::type x) { return x; }
template <> __device__ inline bfloat16 narrowed<bfloat16>(float x) {
  const unsigned int whole = __float_as_uint(x);
  bfloat16 result;
  result.bits = x != x ? 0x7fff : (whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16;  // to nearest, ties to even
  return result;
}
template <> __device__ inline float16 narrowed<float16>(float x) {
  float16 result;
#ifdef OPYARD_EMULATED
  result.bits = emulation::float_to_half(x);
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#endif
  return result;
}

template <typename T> __device__ inline T infinity() { return T(__int_as_float(0x7f800000)); }

// WIDTH elements side by side, which one instruction loads or stores.
template <typename T, int WIDTH> struct __align__(sizeof(T) * WIDTH) Pack { T at[WIDTH]; };
template <typename T, int WIDTH> __device__ inline Pack<T, WIDTH> load(const T* from) {
  return *reinterpret_cast<const Pack<T, WIDTH>*>(from);
}
template <typename T, int WIDTH> __device__ inline void store(T* to, const Pack<T, WIDTH>& pack) {
  *reinterpret_cast<Pack<T, WIDTH>*>(to) = pack;
}

// Ways to combine two values; a NaN stays one.
struct Sum {
  template <typename W> static __device__ inline W none() { return W(0); }
  template <typename W> static __device__ inline W of(W a, W b) { return a + b; }
};
struct Product {
  template <typename W> static __device__ inline W none() { return W(1); }
  template <typename W> static __device__ inline W of(W a, W b) { return a * b; }
};
struct Greatest {
  template <typename W> static __device__ inline W none() { return -infinity<W>(); }
  template <typename W> static __device__ inline W of(W a, W b) { return (a > b || a != a) ? a : b; }
};
struct Least {
  template <typename W> static __device__ inline W none() { return infinity<W>(); }
  template <typename W> static __device__ inline W of(W a, W b) { return (a < b || a != a) ? a : b; }
};

// All lanes of a warp get the whole.
template <typename Way, typename W> __device__ inline W over_warp(W value) {
  for (int bits = 16; bits > 0; bits /= 2) value = Way::of(value, __shfl_xor_sync(0xffffffffu, value, bits));
  return value;
}

// All threads of a group get the whole. A group is a warp, or a block of GROUP threads; `parts` are GROUP / 32 values of shared
// memory that only this call uses, so that one barrier is enough.
template <typename Way, int GROUP, typename W> __device__ inline W over_group(W value, W* parts) {
  value = over_warp<Way>(value);
  if (GROUP == 32) return value;
  const int lane = threadIdx.x % 32;
  if (lane == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  return over_warp<Way>(lane < GROUP / 32 ? parts[lane] : Way::template none<W>());
}
