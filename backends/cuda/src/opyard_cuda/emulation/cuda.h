// What CUDA C++ needs to be compiled by g++ and run on a CPU: each thread of a block is a fibre, see runtime.cpp.
// g++ -fsanitize=thread calls a function before each access to memory; runtime.cpp has these functions, too.
#pragma once
#include <math.h>
#include <string.h>

#include <type_traits>
#include <utility>

#define OPYARD_EMULATED 1

struct uint3 { unsigned int x, y, z; };
struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

namespace emulation {
// A thread stays who it is, so the compiler may keep the answers.
uint3 thread_index() __attribute__((const));
uint3 block_index() __attribute__((const));
uint3 block_size() __attribute__((const));
uint3 grid_size() __attribute__((const));
char* dynamic_shared() __attribute__((const));
void sync_threads(int line);
int sync_threads_count(int line, int predicate);
void sync_warp(int line, unsigned int mask);
// every lane of the mask gives a value; the result is that of lane `source`, or of this lane for a source below 0
unsigned long long exchange(int line, unsigned int mask, unsigned long long value, int source);
unsigned int ballot(int line, unsigned int mask, int predicate);
void atomic_access(const void* address, int size);
int lane();

template <typename T> unsigned long long bits_of(T value) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename T> T of_bits(unsigned long long bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}
// sources as in the CUDA C++ Programming Guide, "Warp Shuffle Functions": outside of its section a lane reads itself
template <typename T> T shuffle(int line, unsigned int mask, T value, int source, int width, bool inside) {
  return of_bits<T>(exchange(line, mask, bits_of(value), inside ? source : -1));
}
template <typename T> T shuffle_index(int line, unsigned int mask, T value, int index, int width = 32) {
  return shuffle(line, mask, value, (lane() & ~(width - 1)) + (index & (width - 1)), width, true);
}
template <typename T> T shuffle_xor(int line, unsigned int mask, T value, int bits, int width = 32) {
  const int source = lane() ^ bits;
  return shuffle(line, mask, value, source, width, source < (lane() & ~(width - 1)) + width);
}
template <typename T> T shuffle_up(int line, unsigned int mask, T value, int delta, int width = 32) {
  return shuffle(line, mask, value, lane() - delta, width, lane() - delta >= (lane() & ~(width - 1)));
}
template <typename T> T shuffle_down(int line, unsigned int mask, T value, int delta, int width = 32) {
  return shuffle(line, mask, value, lane() + delta, width, lane() + delta < (lane() & ~(width - 1)) + width);
}

template <typename T, typename F> __attribute__((no_sanitize("thread"))) T atomic(T* address, F change) {
  atomic_access(address, sizeof(T));
  T before;
  memcpy(&before, address, sizeof(T));  // no call of a sanitizer: atomic_access has seen it
  T after = change(before);
  memcpy(address, &after, sizeof(T));
  return before;
}

// What the tests are told of a kernel: its parameters, and a function that calls it.
struct Parameter { int size; int kind; };  // kind 0: a number, 1: a pointer, 2: a pointer to const
struct Entry {
  const char* name;
  void (*call)(void**);
  const Parameter* parameters;
  int count;
};

template <typename T> constexpr Parameter parameter() {
  return {int(sizeof(T)), !std::is_pointer_v<T> ? 0 : std::is_const_v<std::remove_pointer_t<T>> ? 2 : 1};
}
template <auto function, typename type = decltype(function)> struct Kernel;
template <auto function, typename... P> struct Kernel<function, void (*)(P...)> {
  static constexpr int count = sizeof...(P);
  static constexpr Parameter parameters[sizeof...(P) + 1] = {parameter<P>()..., {0, 0}};
  template <size_t... I>
  __attribute__((no_sanitize("thread"))) static void call_with(void** values, std::index_sequence<I...>) {
    function(*static_cast<std::remove_const_t<P>*>(values[I])...);
  }
  static void call(void** values) { call_with(values, std::index_sequence_for<P...>()); }
};

float half_to_float(unsigned short bits);
unsigned short float_to_half(float value);
}  // namespace emulation

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __constant__ static const
#define __shared__ static  // runtime.cpp takes all that is static and begins as zeros for shared memory
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())
#define blockDim (emulation::block_size())
#define gridDim (emulation::grid_size())
#define warpSize 32

#define __syncthreads() emulation::sync_threads(__LINE__)
#define __syncthreads_count(predicate) emulation::sync_threads_count(__LINE__, predicate)
#define __syncthreads_or(predicate) (emulation::sync_threads_count(__LINE__, predicate) != 0)
#define __syncthreads_and(predicate) (emulation::sync_threads_count(__LINE__, !(predicate)) == 0)
#define __syncwarp(...) emulation::sync_warp(__LINE__, emulation_mask(__VA_ARGS__))
#define __shfl_sync(mask, ...) emulation::shuffle_index(__LINE__, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) emulation::shuffle_xor(__LINE__, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) emulation::shuffle_up(__LINE__, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) emulation::shuffle_down(__LINE__, mask, __VA_ARGS__)
#define __ballot_sync(mask, predicate) emulation::ballot(__LINE__, mask, predicate)
#define __any_sync(mask, predicate) (emulation::ballot(__LINE__, mask, predicate) != 0)
#define __all_sync(mask, predicate) (emulation::ballot(__LINE__, mask, !(predicate)) == 0)

inline unsigned int emulation_mask(unsigned int mask = 0xffffffffu) { return mask; }
inline void __threadfence() {}
inline void __threadfence_block() {}
template <typename T> inline T __ldg(const T* address) { return *address; }

template <typename T> T atomicAdd(T* address, T value) {
  return emulation::atomic(address, [=](T before) { return T(before + value); });
}
template <typename T> T atomicMax(T* address, T value) {
  return emulation::atomic(address, [=](T before) { return before < value ? value : before; });
}
template <typename T> T atomicMin(T* address, T value) {
  return emulation::atomic(address, [=](T before) { return value < before ? value : before; });
}
template <typename T> T atomicExch(T* address, T value) {
  return emulation::atomic(address, [=](T) { return value; });
}
template <typename T> T atomicCAS(T* address, T expected, T value) {
  return emulation::atomic(address, [=](T before) { return before == expected ? value : before; });
}

inline float __int_as_float(int bits) { return emulation::of_bits<float>((unsigned int)bits); }
inline float __uint_as_float(unsigned int bits) { return emulation::of_bits<float>(bits); }
inline int __float_as_int(float value) { return int(emulation::bits_of(value)); }
inline unsigned int __float_as_uint(float value) { return (unsigned int)emulation::bits_of(value); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Narrow floats in software, with the names of cuda_fp16.h and cuda_bf16.h.
struct __half {
  unsigned short bits;
  __half() = default;
  __half(float value) : bits(emulation::float_to_half(value)) {}
  operator float() const { return emulation::half_to_float(bits); }
};
struct __nv_bfloat16 {
  unsigned short bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {
    const unsigned int whole = __float_as_uint(value);
    bits = value != value ? 0x7fff : (whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16;  // to nearest, ties to even
  }
  operator float() const { return __uint_as_float((unsigned int)bits << 16); }
};
inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
