// Softmax and normalizations of the rows of a matrix [rows, columns].
//
// A group of GROUP threads has a row: a warp, several to a block, or a whole block. Each thread keeps PACKS packs of WIDTH
// elements in registers, so memory is read once and written once. Longer rows are read again for each pass.

template <typename T, int WIDTH, int PACKS, int GROUP> struct Row {
  typedef typename WideOf<T>::type W;
  W at[PACKS * WIDTH];

  static __device__ inline int place(int pack) { return (pack * GROUP + threadIdx.x % GROUP) * WIDTH; }

  __device__ inline void read(const T* row, int columns, W beyond) {
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
      const int start = place(k);
      Pack<T, WIDTH> pack;
      if (start < columns) pack = load<T, WIDTH>(row + start);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) at[k * WIDTH + i] = start < columns ? widened(pack.at[i]) : beyond;
    }
  }

  __device__ inline void add(const T* row, int columns) {
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
      const int start = place(k);
      if (start >= columns) continue;
      const Pack<T, WIDTH> pack = load<T, WIDTH>(row + start);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) at[k * WIDTH + i] = widened(narrowed<T>(at[k * WIDTH + i] + widened(pack.at[i])));
    }
  }

  __device__ inline void write(T* row, int columns) const {
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
      const int start = place(k);
      if (start >= columns) continue;
      Pack<T, WIDTH> pack;
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) pack.at[i] = narrowed<T>(at[k * WIDTH + i]);
      store<T, WIDTH>(row + start, pack);
    }
  }

  template <typename Way> __device__ inline W folded() const {
    W result = Way::template none<W>();
#pragma unroll
    for (int i = 0; i < PACKS * WIDTH; ++i) result = Way::of(result, at[i]);
    return result;
  }

  // scale and bias, of type S, where they are given
  template <typename S> __device__ inline void scaled(const S* scale, const S* bias, int columns) {
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
      const int start = place(k);
      if (start >= columns) continue;
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        W& value = at[k * WIDTH + i];
        if (scale) value *= widened(scale[start + i]);
        if (bias) value += widened(bias[start + i]);
      }
    }
  }

  // what lies behind the end of the row becomes zero
  __device__ inline void cut(int columns) {
#pragma unroll
    for (int k = 0; k < PACKS; ++k)
      if (place(k) >= columns)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) at[k * WIDTH + i] = W(0);
  }
};

template <int GROUP> __device__ inline long long own_row() {
  return (long long)blockIdx.x * (blockDim.x / GROUP) + threadIdx.x / GROUP;
}

template <typename T, int WIDTH, int PACKS, int GROUP, bool LOGARITHM>
__global__ void softmax(const T* __restrict__ x, T* __restrict__ y, long long rows, int columns) {
  typedef typename WideOf<T>::type W;
  __shared__ W parts[2][32];
  const long long row = own_row<GROUP>();
  if (row >= rows) return;
  Row<T, WIDTH, PACKS, GROUP> values;
  values.read(x + row * columns, columns, -infinity<W>());
  const W greatest = over_group<Greatest, GROUP>(values.template folded<Greatest>(), parts[0]);
  W total = 0;
#pragma unroll
  for (int i = 0; i < PACKS * WIDTH; ++i) {
    values.at[i] -= greatest;
    const W weight = exp(values.at[i]);
    total += weight;
    if (!LOGARITHM) values.at[i] = weight;
  }
  total = over_group<Sum, GROUP>(total, parts[1]);
  const W last = LOGARITHM ? log(total) : W(1) / total;
#pragma unroll
  for (int i = 0; i < PACKS * WIDTH; ++i) values.at[i] = LOGARITHM ? values.at[i] - last : values.at[i] * last;
  values.write(y + row * columns, columns);
}

// The greatest element so far, and the sum of exp(x - greatest). Source: Milakov and Gimelshein, arXiv:1805.02867.
template <typename W> struct Weight {
  W greatest, total;
  __device__ inline void see(W x) {
    if (x == -infinity<W>()) return;
    if (x > greatest) {
      total = total * exp(greatest - x) + W(1);
      greatest = x;
    } else {
      total += exp(x - greatest);
    }
  }
  __device__ inline void join(W other, W sum) {
    if (sum == W(0)) return;  // it has seen nothing
    const W before = greatest;
    greatest = other > before ? other : before;
    total = (total == W(0) ? W(0) : total * exp(before - greatest)) + sum * exp(other - greatest);
  }
};

template <typename W> __device__ inline void over_warp(Weight<W>& weight) {
  for (int bits = 16; bits > 0; bits /= 2) {
    const W greatest = __shfl_xor_sync(0xffffffffu, weight.greatest, bits);
    const W total = __shfl_xor_sync(0xffffffffu, weight.total, bits);
    weight.join(greatest, total);
  }
}

template <typename T, int WIDTH, int GROUP, bool LOGARITHM>
__global__ void long_softmax(const T* __restrict__ x, T* __restrict__ y, int columns) {
  typedef typename WideOf<T>::type W;
  __shared__ W greatest[GROUP / 32], totals[GROUP / 32];
  x += (long long)blockIdx.x * columns;
  y += (long long)blockIdx.x * columns;
  Weight<W> weight = {-infinity<W>(), W(0)};
  for (int start = threadIdx.x * WIDTH; start < columns; start += GROUP * WIDTH) {
    const Pack<T, WIDTH> pack = load<T, WIDTH>(x + start);
    for (int i = 0; i < WIDTH; ++i) weight.see(widened(pack.at[i]));
  }
  over_warp(weight);
  const int lane = threadIdx.x % 32;
  if (lane == 0) greatest[threadIdx.x / 32] = weight.greatest, totals[threadIdx.x / 32] = weight.total;
  __syncthreads();
  weight.greatest = lane < GROUP / 32 ? greatest[lane] : -infinity<W>();
  weight.total = lane < GROUP / 32 ? totals[lane] : W(0);
  over_warp(weight);
  const W last = LOGARITHM ? log(weight.total) : W(1) / weight.total;
  for (int start = threadIdx.x * WIDTH; start < columns; start += GROUP * WIDTH) {
    const Pack<T, WIDTH> pack = load<T, WIDTH>(x + start);
    Pack<T, WIDTH> result;
    for (int i = 0; i < WIDTH; ++i) {
      const W below = widened(pack.at[i]) - weight.greatest;
      result.at[i] = narrowed<T>(LOGARITHM ? below - last : exp(below) * last);
    }
    store<T, WIDTH>(y + start, result);
  }
}

// y = (x - mean) / sqrt(variance + epsilon) * scale + bias, or without CENTRED x / sqrt(mean(x * x) + epsilon) * scale.
// With a residual it is x + residual, rounded to T, that is normalized; where `sums` is given it is written there.
template <typename T, typename S, int WIDTH, int PACKS, int GROUP, bool CENTRED>
__global__ void normalization(const T* __restrict__ x, const T* __restrict__ residual, const S* __restrict__ scale,
                              const S* __restrict__ bias, T* __restrict__ sums, T* __restrict__ y, long long rows, int columns,
                              double epsilon) {
  typedef typename WideOf<T>::type W;
  __shared__ W parts[2][32];
  const long long row = own_row<GROUP>();
  if (row >= rows) return;
  Row<T, WIDTH, PACKS, GROUP> values;
  values.read(x + row * columns, columns, W(0));
  if (residual) values.add(residual + row * columns, columns);
  if (sums) values.write(sums + row * columns, columns);
  if (CENTRED) {
    const W mean = over_group<Sum, GROUP>(values.template folded<Sum>(), parts[0]) / W(columns);
#pragma unroll
    for (int i = 0; i < PACKS * WIDTH; ++i) values.at[i] -= mean;
    values.cut(columns);
  }
  W square = 0;
#pragma unroll
  for (int i = 0; i < PACKS * WIDTH; ++i) square += values.at[i] * values.at[i];
  square = over_group<Sum, GROUP>(square, parts[1]) / W(columns);
  const W factor = W(1) / sqrt(square + W(epsilon));
#pragma unroll
  for (int i = 0; i < PACKS * WIDTH; ++i) values.at[i] *= factor;
  values.scaled(scale, bias, columns);
  values.write(y + row * columns, columns);
}

template <typename T, int WIDTH> __device__ inline void summed(const T* x, const T* residual, int start, typename WideOf<T>::type* to) {
  const Pack<T, WIDTH> pack = load<T, WIDTH>(x + start);
  for (int i = 0; i < WIDTH; ++i) to[i] = widened(pack.at[i]);
  if (!residual) return;
  const Pack<T, WIDTH> more = load<T, WIDTH>(residual + start);
  for (int i = 0; i < WIDTH; ++i) to[i] = widened(narrowed<T>(to[i] + widened(more.at[i])));
}

template <typename T, typename S, int WIDTH, int GROUP, bool CENTRED>
__global__ void long_normalization(const T* __restrict__ x, const T* __restrict__ residual, const S* __restrict__ scale,
                                   const S* __restrict__ bias, T* __restrict__ sums, T* __restrict__ y, int columns,
                                   double epsilon) {
  typedef typename WideOf<T>::type W;
  __shared__ W parts[2][32];
  const long long offset = (long long)blockIdx.x * columns;
  x += offset, y += offset;
  if (residual) residual += offset;
  const int first = threadIdx.x * WIDTH, step = GROUP * WIDTH;
  W values[WIDTH], mean = 0, square = 0;
  if (CENTRED) {
    for (int start = first; start < columns; start += step) {
      summed<T, WIDTH>(x, residual, start, values);
      for (int i = 0; i < WIDTH; ++i) mean += values[i];
    }
    mean = over_group<Sum, GROUP>(mean, parts[0]) / W(columns);
  }
  for (int start = first; start < columns; start += step) {
    summed<T, WIDTH>(x, residual, start, values);
    for (int i = 0; i < WIDTH; ++i) square += (values[i] - mean) * (values[i] - mean);
  }
  square = over_group<Sum, GROUP>(square, parts[1]) / W(columns);
  const W factor = W(1) / sqrt(square + W(epsilon));
  for (int start = first; start < columns; start += step) {
    summed<T, WIDTH>(x, residual, start, values);
    Pack<T, WIDTH> sum, result;
    for (int i = 0; i < WIDTH; ++i) {
      W value = (values[i] - mean) * factor;
      if (scale) value *= widened(scale[start + i]);
      if (bias) value += widened(bias[start + i]);
      sum.at[i] = narrowed<T>(values[i]);
      result.at[i] = narrowed<T>(value);
    }
    if (sums) store<T, WIDTH>(sums + offset + start, sum);
    store<T, WIDTH>(y + start, result);
  }
}
