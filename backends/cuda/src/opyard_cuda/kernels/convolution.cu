// Convolution of [n, channels, height, width] in two axes as a product of matrices that is never written down (implicit GEMM):
// [out channels of a group, taps] times [taps, pixels of the whole batch], where a tap is a channel and a place in the kernel.
//
// A block has a tile of ROWS out channels and COLUMNS pixels and goes through the taps DEPTH at a time; each of its threads has
// DOWN x ACROSS of its elements in registers. Sums are plain fused multiply-adds in one order.

template <typename T, int ROWS, int COLUMNS, int DEPTH, int DOWN, int ACROSS>
__global__ void __launch_bounds__(ROWS / DOWN * COLUMNS / ACROSS)
    convolution(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y, int groups,
                long long pixels, int channels, int height, int width, int out_channels, int rows, int columns,
                int kernel_height, int kernel_width, int stride_y, int stride_x, int top, int before, int dilation_y,
                int dilation_x) {
  typedef typename WideOf<T>::type W;
  constexpr int THREADS = ROWS / DOWN * COLUMNS / ACROSS;
  __shared__ W left[DEPTH][ROWS + 1], right[DEPTH][COLUMNS];
  const int group = blockIdx.z, first_row = blockIdx.y * ROWS;
  const long long first_column = (long long)blockIdx.x * COLUMNS;
  const int inputs = channels / groups, outputs = out_channels / groups;
  const int area = kernel_height * kernel_width, image = rows * columns, taps = inputs * area;
  x += (long long)group * inputs * height * width;
  weight += (long long)group * outputs * taps;
  const int across = threadIdx.x % (COLUMNS / ACROSS), down = threadIdx.x / (COLUMNS / ACROSS);

  // each thread loads the same column of the right tile each time
  const int own_column = threadIdx.x % COLUMNS;
  const long long pixel = first_column + own_column;
  const bool there = pixel < pixels;
  const int at = pixel % image;
  const int v0 = at / columns * stride_y - top, u0 = at % columns * stride_x - before;
  const T* own_image = x + pixel / image * channels * height * width;

  W sums[DOWN][ACROSS] = {};
  for (int start = 0; start < taps; start += DEPTH) {
    for (int i = threadIdx.x; i < ROWS * DEPTH; i += THREADS) {
      const int row = i / DEPTH, tap = i % DEPTH;
      const bool inside = first_row + row < outputs && start + tap < taps;
      left[tap][row] = inside ? widened(weight[(long long)(first_row + row) * taps + start + tap]) : W(0);
    }
    for (int depth = threadIdx.x / COLUMNS; depth < DEPTH; depth += THREADS / COLUMNS) {
      const int tap = start + depth, channel = tap / area, i = tap % area / kernel_width, j = tap % kernel_width;
      const int v = v0 + i * dilation_y, u = u0 + j * dilation_x;
      const bool inside = there && tap < taps && v >= 0 && v < height && u >= 0 && u < width;
      right[depth][own_column] = inside ? widened(own_image[((long long)channel * height + v) * width + u]) : W(0);
    }
    __syncthreads();
#pragma unroll
    for (int depth = 0; depth < DEPTH; ++depth) {
      W a[DOWN], b[ACROSS];
#pragma unroll
      for (int i = 0; i < DOWN; ++i) a[i] = left[depth][down + i * (ROWS / DOWN)];
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) b[j] = right[depth][across + j * (COLUMNS / ACROSS)];
#pragma unroll
      for (int i = 0; i < DOWN; ++i)
#pragma unroll
        for (int j = 0; j < ACROSS; ++j) sums[i][j] += a[i] * b[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < DOWN; ++i) {
    const int row = first_row + down + i * (ROWS / DOWN);
    if (row >= outputs) continue;
    const long long channel = (long long)group * outputs + row;
    const W added = bias ? widened(bias[channel]) : W(0);
#pragma unroll
    for (int j = 0; j < ACROSS; ++j) {
      const long long column = first_column + across + j * (COLUMNS / ACROSS);
      if (column < pixels) y[(column / image * out_channels + channel) * image + column % image] = narrowed<T>(sums[i][j] + added);
    }
  }
}
