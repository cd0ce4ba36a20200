// Sums, products and extrema of [outer, reduced, inner] over the middle, in one or two stages, each in a fixed order.
//
// The first of two stages cuts `reduced` into pieces and gives [outer, pieces, inner] in the type that is computed in; the second
// reduces the pieces. The result is divided by `divisor`.

// inner = 1: a group of GROUP threads, a warp or a block, has one piece of a row.
template <typename Way, typename T, typename U, int WIDTH, int GROUP>
__global__ void reduce_rows(const T* __restrict__ x, U* __restrict__ y, long long outer, long long reduced, long long piece,
                            double divisor) {
  typedef typename WideOf<T>::type W;
  __shared__ W parts[32];
  const long long row = (long long)blockIdx.x * (blockDim.x / GROUP) + threadIdx.x / GROUP;
  if (row >= outer) return;
  const long long begin = blockIdx.y * piece, end = min(begin + piece, reduced);
  x += row * reduced;
  W result = Way::template none<W>();
  for (long long start = begin + threadIdx.x % GROUP * WIDTH; start < end; start += GROUP * WIDTH) {
    const Pack<T, WIDTH> pack = load<T, WIDTH>(x + start);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) result = Way::of(result, widened(pack.at[i]));
  }
  result = over_group<Way, GROUP>(result, parts);
  if (threadIdx.x % GROUP == 0) y[row * gridDim.y + blockIdx.y] = narrowed<U>(result / W(divisor));
}

// inner > 1: neighbouring threads have neighbouring columns; those of one column share its elements.
template <typename Way, typename T, typename U>
__global__ void reduce_columns(const T* __restrict__ x, U* __restrict__ y, long long reduced, long long inner, long long piece,
                               double divisor) {
  typedef typename WideOf<T>::type W;
  __shared__ W parts[8][32];
  const long long tiles = (inner + 31) / 32;
  const long long outer = blockIdx.x / tiles, column = blockIdx.x % tiles * 32 + threadIdx.x;
  const long long begin = blockIdx.y * piece, end = min(begin + piece, reduced);
  W result = Way::template none<W>();
  if (column < inner)
    for (long long i = begin + threadIdx.y; i < end; i += 8) result = Way::of(result, widened(x[(outer * reduced + i) * inner + column]));
  parts[threadIdx.y][threadIdx.x] = result;
  __syncthreads();
  if (threadIdx.y != 0 || column >= inner) return;
#pragma unroll
  for (int part = 1; part < 8; ++part) result = Way::of(result, parts[part][threadIdx.x]);
  y[(outer * gridDim.y + blockIdx.y) * inner + column] = narrowed<U>(result / W(divisor));
}
