// Transposition and gathering: elements are moved as bits of their size.

// [batch, rows, columns] -> [batch, columns, rows] by tiles in shared memory, whose rows have one element more: a column of a tile
// then lies in different banks.
template <typename T> __global__ void transpose(const T* __restrict__ x, T* __restrict__ y, long long rows, long long columns) {
  __shared__ T tile[32][33];
  const long long across = (columns + 31) / 32, down = (rows + 31) / 32;
  const long long batch = blockIdx.x / (across * down), number = blockIdx.x % (across * down);
  const long long top = number / across * 32, left = number % across * 32;
  x += batch * rows * columns;
  y += batch * rows * columns;
  for (int i = threadIdx.y; i < 32; i += 8)
    if (top + i < rows && left + threadIdx.x < columns) tile[i][threadIdx.x] = x[(top + i) * columns + left + threadIdx.x];
  __syncthreads();
  for (int i = threadIdx.y; i < 32; i += 8)
    if (left + i < columns && top + threadIdx.x < rows) y[(left + i) * rows + top + threadIdx.x] = tile[threadIdx.x][i];
}

// x [outer, size, inner] at indices [count] -> [outer, count, inner]; an index out of range wraps around, as
// CuPy's do: one below 0 counts from the end. A thread moves one T: an element, or several at once where `inner` allows it.
template <typename T, typename I>
__global__ void gather(const T* __restrict__ x, const I* __restrict__ indices, T* __restrict__ y, long long total, long long size,
                       long long count, long long inner) {
  const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (place >= total) return;
  const long long row = place / inner, outer = row / count;
  long long index = (long long)indices[row % count];
  if (index < 0 || index >= size) index = (index % size + size) % size;
  y[place] = x[(outer * size + index) * inner + place % inner];
}
