// What the kernels use of cuBLASLt, computed on the host, by the documentation of its functions: matrices lie column by
// column, D = epilogue(alpha * op(A) * op(B) + beta * C + bias), and the bias has an element for each row of D.
#include <math.h>
#include <stdint.h>
#include <string.h>

enum Status { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { R_32F = 0, R_16F = 2, R_16BF = 14 };

struct Description { int compute, scale, transposed_a, transposed_b, epilogue; const void* bias; };
struct Layout { int type; uint64_t rows, columns; int64_t leading; };
struct Preference { uint64_t workspace; uint32_t alignments[4]; };
struct Heuristic { uint64_t algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };

static int made = 0, destroyed = 0;
static uint64_t last_stream = 0, last_workspace = 0, last_alignment = 0;

static float load(const void* at, int type, int64_t i) {
  if (type == R_32F) return ((const float*)at)[i];
  if (type == R_16F) return (float)((const _Float16*)at)[i];
  uint32_t bits = (uint32_t)((const uint16_t*)at)[i] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static void store(void* at, int type, int64_t i, float value) {
  if (type == R_32F) { ((float*)at)[i] = value; return; }
  if (type == R_16F) { ((_Float16*)at)[i] = (_Float16)value; return; }
  uint32_t bits;
  memcpy(&bits, &value, 4);
  ((uint16_t*)at)[i] = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
}

static bool fit(const Description* d, const Layout* a, const Layout* b, const Layout* c) {
  uint64_t m = d->transposed_a ? a->columns : a->rows, k = d->transposed_a ? a->rows : a->columns;
  uint64_t k2 = d->transposed_b ? b->columns : b->rows, n = d->transposed_b ? b->rows : b->columns;
  return m == c->rows && n == c->columns && k == k2 && a->type == b->type && a->type == c->type;
}

extern "C" {
int cublasLtCreate(void** handle) { *handle = (void*)0x1d1e; return SUCCESS; }

int cublasLtMatmulDescCreate(Description** made_here, int compute, int scale) {
  if (compute != 68 || scale != R_32F) return INVALID_VALUE;
  ++made;
  *made_here = new Description{compute, scale, 0, 0, 1, nullptr};
  return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(Description* d, int attribute, const void* value, size_t size) {
  if (attribute == 8) {
    if (size != 8) return INVALID_VALUE;
    memcpy(&d->bias, value, 8);
    return SUCCESS;
  }
  int32_t number;
  if (size != 4) return INVALID_VALUE;
  memcpy(&number, value, 4);
  if (attribute == 3) d->transposed_a = number;
  else if (attribute == 4) d->transposed_b = number;
  else if (attribute == 7) d->epilogue = number;
  else return INVALID_VALUE;
  return SUCCESS;
}

int cublasLtMatrixLayoutCreate(Layout** made_here, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  if (leading < (int64_t)rows || !rows || !columns) return INVALID_VALUE;
  ++made;
  *made_here = new Layout{type, rows, columns, leading};
  return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(Preference** made_here) {
  ++made;
  *made_here = new Preference{};
  return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t size) {
  if (attribute == 1 && size == 8) memcpy(&p->workspace, value, 8);
  else if (attribute >= 5 && attribute <= 8 && size == 4) memcpy(&p->alignments[attribute - 5], value, 4);
  else return INVALID_VALUE;
  return SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, const Description* d, const Layout* a, const Layout* b, const Layout* c, const Layout* out,
                                   const Preference* p, int wanted, Heuristic* results, int* found) {
  if (handle != (void*)0x1d1e || !fit(d, a, b, c) || !fit(d, a, b, out)) return INVALID_VALUE;
  for (uint32_t alignment : p->alignments)
    if (alignment != p->alignments[0] || !alignment) return INVALID_VALUE;
  last_alignment = p->alignments[0];
  *found = wanted == 1 && a->columns != 13;  // a size that nothing is offered for
  results[0].algorithm[0] = 0xa190;
  results[0].workspace = c->rows > 8 ? p->workspace / 2 : 0;
  results[0].state = SUCCESS;
  return SUCCESS;
}

int cublasLtMatmul(void* handle, const Description* d, const float* alpha, const void* a, const Layout* la, const void* b, const Layout* lb,
                   const float* beta, const void* c, const Layout* lc, void* out, const Layout* lout, const Heuristic* best, void* workspace,
                   size_t size, void* stream) {
  if (handle != (void*)0x1d1e || best->algorithm[0] != 0xa190 || !fit(d, la, lb, lout) || size < best->workspace) return INVALID_VALUE;
  if (best->workspace && !workspace) return INVALID_VALUE;
  last_stream = (uint64_t)stream, last_workspace = (uint64_t)workspace;
  int activation = d->epilogue & ~4;
  bool biased = d->epilogue & 4;
  if ((activation != 0 && activation != 1 && activation != 2 && activation != 32) || (biased && !d->bias)) return NOT_SUPPORTED;
  for (uint64_t row = 0; row < lout->rows; ++row)
    for (uint64_t column = 0; column < lout->columns; ++column) {
      float sum = 0;
      uint64_t depth = d->transposed_a ? la->rows : la->columns;
      for (uint64_t i = 0; i < depth; ++i)
        sum += load(a, la->type, d->transposed_a ? i + row * la->leading : row + i * la->leading) *
               load(b, lb->type, d->transposed_b ? column + i * lb->leading : i + column * lb->leading);
      sum = *alpha * sum + (*beta ? *beta * load(c, lc->type, row + column * lc->leading) : 0);
      if (biased) sum += load(d->bias, lout->type, row);
      if (activation == 2) sum = sum > 0 ? sum : 0;
      if (activation == 32) sum = 0.5f * sum * (1 + tanhf(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
      store(out, lout->type, row + column * lout->leading, sum);
    }
  return SUCCESS;
}

int cublasLtMatmulDescDestroy(Description* d) { ++destroyed; delete d; return SUCCESS; }
int cublasLtMatrixLayoutDestroy(Layout* l) { ++destroyed; delete l; return SUCCESS; }
int cublasLtMatmulPreferenceDestroy(Preference* p) { ++destroyed; delete p; return SUCCESS; }

// for the tests
int alive() { return made - destroyed; }
uint64_t stream_seen() { return last_stream; }
uint64_t workspace_seen() { return last_workspace; }
uint64_t alignment_seen() { return last_alignment; }
}
