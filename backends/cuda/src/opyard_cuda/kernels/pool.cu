// Pooling of [planes, height, width] over windows in two axes: a thread computes one element of [planes, rows, columns].
//
// `bottom` and `right` are the ends of the padding behind the image, counted from its first element; windows may reach further.
template <typename T, bool MEAN>
__global__ void pool(const T* __restrict__ x, T* __restrict__ y, long long total, int height, int width, int rows, int columns,
                     int kernel_height, int kernel_width, int stride_y, int stride_x, int top, int left, int bottom, int right,
                     int dilation_y, int dilation_x, int include_padding) {
  typedef typename WideOf<T>::type W;
  const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (place >= total) return;
  const int column = place % columns, row = place / columns % rows;
  x += place / columns / rows * height * width;
  W result = MEAN ? W(0) : -infinity<W>();
  int counted = 0;
  for (int i = 0; i < kernel_height; ++i) {
    const int v = row * stride_y - top + i * dilation_y;
    for (int j = 0; j < kernel_width; ++j) {
      const int u = column * stride_x - left + j * dilation_x;
      const bool inside = v >= 0 && v < height && u >= 0 && u < width;
      if (inside) {
        const W value = widened(x[(long long)v * width + u]);
        result = MEAN ? result + value : Greatest::of(result, value);
      }
      if (MEAN) counted += inside || (include_padding && v < bottom && u < right);
    }
  }
  y[place] = narrowed<T>(MEAN ? result / W(counted > 0 ? counted : 1) : result);
}
