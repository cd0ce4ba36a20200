// Scaled dot product attention: softmax(query @ key.T * scale + mask) @ value, without ever writing the scores.
//
// query [batch, heads, length, width], key [batch, groups, keys, width], value [batch, groups, keys, out_width]. A block has
// QUERIES queries of one head and goes through the keys KEYS at a time; four neighbouring threads have one query. The sums so far
// are scaled anew whenever a greater score comes. Source: Dao et al., arXiv:2205.14135; Milakov and Gimelshein, arXiv:1805.02867.
//
// MASK: 0 none, 1 of bool, 2 of T, added to the scores; its strides, in elements, may be 0.

template <typename T, int MASK, int MOST_WIDTH>
__global__ void __launch_bounds__(128, 3)
    attention(const T* __restrict__ query, const T* __restrict__ key, const T* __restrict__ value, const void* __restrict__ mask,
              T* __restrict__ y, int heads, int groups, int length, int keys, int width, int out_width, int causal,
              long long batch_stride, long long head_stride, long long query_stride, long long key_stride, double scale) {
  typedef typename WideOf<T>::type W;
  constexpr int QUERIES = 32, KEYS = 32, THREADS = 128, QUAD = 4;
  __shared__ W queries[QUERIES][MOST_WIDTH + 1], tile[KEYS][MOST_WIDTH + 1], weights[QUERIES][KEYS + 1];
  const int tiles = (length + QUERIES - 1) / QUERIES;
  const int first = blockIdx.x % tiles * QUERIES;
  const long long whole = blockIdx.x / tiles, batch = whole / heads, head = whole % heads;
  const long long group = batch * groups + head / (heads / groups);
  const int own = threadIdx.x / QUAD, part = threadIdx.x % QUAD, row = first + own;
  query += whole * length * width;
  key += group * keys * width;
  value += group * keys * out_width;

  for (int i = threadIdx.x; i < QUERIES * width; i += THREADS) {
    const int r = i / width, d = i % width;
    queries[r][d] = first + r < length ? widened(query[(long long)(first + r) * width + d]) * W(scale) : W(0);
  }
  W sums[MOST_WIDTH / QUAD] = {}, greatest = -infinity<W>(), total = 0;
  const int end = causal ? min(keys, first + QUERIES) : keys;
  for (int start = 0; start < end; start += KEYS) {
    for (int i = threadIdx.x; i < KEYS * width; i += THREADS) {
      const int r = i / width, d = i % width;
      tile[r][d] = start + r < keys ? widened(key[(long long)(start + r) * width + d]) : W(0);
    }
    __syncthreads();
    W scores[KEYS / QUAD] = {};
    for (int d = 0; d < width; ++d) {
      const W q = queries[own][d];
#pragma unroll
      for (int j = 0; j < KEYS / QUAD; ++j) scores[j] += q * tile[part + j * QUAD][d];
    }
    W highest = -infinity<W>();
#pragma unroll
    for (int j = 0; j < KEYS / QUAD; ++j) {
      const int k = start + part + j * QUAD;
      bool seen = row < length && k < keys && !(causal && k > row);
      if (MASK && seen) {
        const long long place = batch * batch_stride + head * head_stride + row * query_stride + k * key_stride;
        if (MASK == 1) seen = static_cast<const unsigned char*>(mask)[place] != 0;
        if (MASK == 2) scores[j] += widened(static_cast<const T*>(mask)[place]);
      }
      if (!seen) scores[j] = -infinity<W>();
      highest = Greatest::of(highest, scores[j]);
    }
    for (int bits = 1; bits < QUAD; bits *= 2) highest = Greatest::of(highest, __shfl_xor_sync(0xffffffffu, highest, bits));
    highest = Greatest::of(greatest, highest);
    // while nothing but -inf has been seen every weight is zero
    const W shift = highest == -infinity<W>() ? W(0) : highest;
    const W fading = exp(greatest - shift);
    greatest = highest;
    W added = 0;
#pragma unroll
    for (int j = 0; j < KEYS / QUAD; ++j) {
      const W weight = exp(scores[j] - shift);
      weights[own][part + j * QUAD] = weight;
      added += weight;
    }
    for (int bits = 1; bits < QUAD; bits *= 2) added += __shfl_xor_sync(0xffffffffu, added, bits);
    total = total * fading + added;
#pragma unroll
    for (int j = 0; j < MOST_WIDTH / QUAD; ++j) sums[j] *= fading;
    __syncthreads();  // the keys are done with, and the weights are there
    for (int i = threadIdx.x; i < KEYS * MOST_WIDTH; i += THREADS) {
      const int r = i / MOST_WIDTH, d = i % MOST_WIDTH;
      const bool inside = start + r < keys && d < out_width;
      tile[r][d] = inside ? widened(value[(long long)(start + r) * out_width + d]) : W(0);
    }
    __syncthreads();
    for (int k = 0; k < KEYS; ++k) {
      const W weight = weights[own][k];
#pragma unroll
      for (int j = 0; j < MOST_WIDTH / QUAD; ++j) sums[j] += weight * tile[k][part + j * QUAD];
    }
    __syncthreads();  // the values are done with
  }
  if (row >= length) return;
  y += (whole * length + row) * out_width;
  const W last = total == W(0) ? W(1) : total;
#pragma unroll
  for (int j = 0; j < MOST_WIDTH / QUAD; ++j)
    if (part + j * QUAD < out_width) y[part + j * QUAD] = narrowed<T>(sums[j] / last);
}
