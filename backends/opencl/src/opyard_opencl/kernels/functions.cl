// Functions of scalar expressions for one element of type T.
// Float versions are polynomials, so that loops over them become vector code; OpenCL's own functions do not on every
// CPU implementation. Coefficients: near-minimax fits (Lawson's iteration) to the function after range reduction.

#pragma OPENCL FP_CONTRACT ON

static inline ushort bfloat16_bits(float x) {
    const uint bits = as_uint(x);
    const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to the nearest, ties to even
    return (ushort)(x != x ? (bits >> 16) | 0x40u : rounded);
}

static inline float half_value(ushort bits) {
    const uint rest = (uint)(bits & 0x7fff) << 13;
    const float scaled = as_float(rest) * 5.192296858534828e33f;  // 2^112: the difference of the exponents' biases
    const uint magnitude = rest >= 0x0f800000u ? rest | 0x7f800000u : as_uint(scaled);
    return as_float(magnitude | (uint)(bits & 0x8000) << 16);
}

static inline ushort half_bits(float x) {
    const uint bits = as_uint(x), magnitude = bits & 0x7fffffffu;
    const uint normal = (magnitude + 0x0fffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;  // ties to even
    const uint subnormal = as_uint(as_float(magnitude) + 0.5f) - 0x3f000000u;  // the addition rounds
    const uint finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return (ushort)((magnitude >= 0x477ff000u ? large : finite) | ((bits >> 16) & 0x8000u));
}

static inline T least_of(T a, T b) { return (a != a || a < b) ? a : b; }     // NaN wins
static inline T greatest_of(T a, T b) { return (a != a || a > b) ? a : b; }  // NaN wins

#if T_FLOATING

#if T_DOUBLE
#define exponential(x) exp(x)
#define exponential_minus_one(x) expm1(x)
#define logarithm(x) log(x)
#define logarithm_of_one_plus(x) log1p(x)
#define hyperbolic_tangent(x) tanh(x)
#define error_function(x) erf(x)
#else

// fabs would keep a loop from becoming vector code on PoCL 3.0
static inline float without_sign(float x) { return as_float(as_int(x) & 0x7fffffff); }

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2
static inline float exponential(float x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
    x = x < -105.0f ? -105.0f : x;
    x = x > 90.0f ? 90.0f : x;
    const float shifted = x * 1.44269504f + shift;
    const int n = as_int(shifted) - as_int(shift);
    const float whole = shifted - shift;
    const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.395060030e-3f;
    p = p * r + 8.368953708e-3f;
    p = p * r + 4.166620417e-2f;
    p = p * r + 1.666651830e-1f;
    p = p * r + 5.000000096e-1f;
    p = p * r * r + r + 1.0f;
    const int half_n = n >> 1;  // in two steps: 2^n itself may overflow where the result does not
    return p * as_float((half_n + 127) << 23) * as_float((n - half_n + 127) << 23);
}

static inline float exponential_minus_one(float x) {
    float p = 1.998389934e-4f;
    p = p * x + 1.398149902e-3f;
    p = p * x + 8.333111181e-3f;
    p = p * x + 4.166586506e-2f;
    p = p * x + 1.666666762e-1f;
    const float near = x + x * x * (0.5f + x * p);
    const float far = exponential(x) - 1.0f;
    return without_sign(x) < 0.5f ? (x == 0.0f ? x : near) : far;
}

// log(2^k (1 + f)) = k ln 2 + f - f^2 / 2 + f^3 p(f), sqrt(1/2) <= 1 + f < sqrt(2)
static inline float logarithm(float x) {
    const int subnormal = x < 1.17549435e-38f;
    const int bits = as_int(subnormal ? x * 8388608.0f : x);
    const int k = (bits - 0x3f3504f3) >> 23;
    const float f = as_float(bits - (k << 23)) - 1.0f;
    const float exponent = (float)(k - (subnormal ? 23 : 0));
    float p = 6.915368071e-2f;
    p = p * f - 1.178980770e-1f;
    p = p * f + 1.187297629e-1f;
    p = p * f - 1.238434847e-1f;
    p = p * f + 1.421865809e-1f;
    p = p * f - 1.666925082e-1f;
    p = p * f + 2.000222661e-1f;
    p = p * f - 2.499998660e-1f;
    p = p * f + 3.333331044e-1f;
    const float square = f * f;
    const float tail = p * f * square - exponent * 2.12194440e-4f - 0.5f * square;
    float result = (tail + f) + exponent * 0.693359375f;
    result = x == INFINITY ? INFINITY : result;
    result = x == 0.0f ? -INFINITY : result;
    return x >= 0.0f ? result : NAN;
}

static inline float logarithm_of_one_plus(float x) {
    const float sum = 1.0f + x;
    const float lost = (x - (sum - 1.0f)) / sum;  // what rounding the sum has lost
    const float result = logarithm(sum) + (sum < 1e30f && sum > 0.0f ? lost : 0.0f);
    return sum == 1.0f ? x : result;
}

static inline float hyperbolic_tangent(float x) {
    const float square = x * x, magnitude = without_sign(x);
    float p = -5.714678325e-3f;
    p = p * square + 2.064856556e-2f;
    p = p * square - 5.374291060e-2f;
    p = p * square + 1.333148467e-1f;
    p = p * square - 3.333328370e-1f;
    const float near = x + x * square * p;
    const float far = 1.0f - 2.0f / (exponential(2.0f * magnitude) + 1.0f);
    return magnitude < 0.625f ? near : (x < 0.0f ? -far : far);
}

// erf(x) = x + x p(x^2) near 0, 1 - exp(q(|x|)) further out
static inline float error_function(float x) {
    const float square = x * x, magnitude = without_sign(x), t = magnitude > 4.0f ? 4.0f : magnitude;
    float p = 8.345224853e-5f;
    p = p * square - 8.137437553e-4f;
    p = p * square + 5.200634305e-3f;
    p = p * square - 2.685927078e-2f;
    p = p * square + 1.128369394e-1f;
    p = p * square - 3.761263370e-1f;
    p = p * square + 1.283791666e-1f;
    float q = -2.082861748e-5f;
    q = q * t + 4.313935557e-4f;
    q = q * t - 4.156254872e-3f;
    q = q * t + 2.508061639e-2f;
    q = q * t - 1.082203839e-1f;
    q = q * t - 6.334008510e-1f;
    q = q * t - 1.129488406f;
    q = q * t + 1.692051181e-4f;
    const float far = 1.0f - exponential(q);
    return magnitude < 0.925f ? x + x * p : (x != x ? x : (x < 0.0f ? -far : far));
}
#endif

// Python's remainder: the sign is that of the divisor.
static inline T modulo(T a, T b) {
    T rest = fmod(a, b);
    if (rest != 0) return (rest < 0) != (b < 0) ? rest + b : rest;
    return copysign((T)0, b);
}
static inline T floor_divide(T a, T b) {
    if (b == 0) return a / b;
    const T rest = fmod(a, b);
    T quotient = (a - rest) / b;  // exact but for rounding, which the last line mends
    if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
    if (quotient == 0) return copysign((T)0, a / b);
    const T whole = floor(quotient);
    return quotient - whole > (T)0.5 ? whole + 1 : whole;
}
static inline T signum(T x) { return x != x ? x : (T)((x > 0) - (x < 0)); }
static inline T log_add_exp(T a, T b) {
    const T high = greatest_of(a, b), low = least_of(a, b);
    return high == low ? high + (T)0.693147180559945309 : high + logarithm_of_one_plus(exponential(low - high));
}
static inline T power(T a, T b) { return pow(a, b); }
#if T_DOUBLE
static inline T magnitude_of(T x) { return fabs(x); }
#else
static inline T magnitude_of(T x) { return without_sign(x); }
#endif

#else

// Division by zero gives 0, as in NumPy; the processor would end the process.
static inline T modulo(T a, T b) {
    if (b == 0) return 0;
#if T_SIGNED
    if (b == (T)-1) return 0;
    const T rest = (T)(a % b);
    return (T)(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
#else
    return (T)(a % b);
#endif
}
static inline T truncated_modulo(T a, T b) {
#if T_SIGNED
    return b == 0 || b == (T)-1 ? 0 : (T)(a % b);
#else
    return b == 0 ? 0 : (T)(a % b);
#endif
}
static inline T floor_divide(T a, T b) {
    if (b == 0) return 0;
#if T_SIGNED
    if (b == (T)-1) return (T)(0 - a);
    const T quotient = (T)(a / b);
    return (T)(quotient - (a % b != 0 && (a < 0) != (b < 0)));
#else
    return (T)(a / b);
#endif
}
// Shifts by the width of the type or more push all bits out, as in NumPy.
static inline T shift_left(T a, T b) { return b < 0 || b >= (T)(8 * sizeof(T)) ? 0 : (T)(a << b); }
static inline T shift_right(T a, T b) {
    const int beyond = b < 0 || b >= (T)(8 * sizeof(T));
    return beyond ? (T)(a < 0 ? -1 : 0) : (T)(a >> b);
}
static inline T signum(T x) { return (T)((x > 0) - (x < 0)); }
static inline T power(T a, T b) {
    T result = 1;
    for (; b > 0; b = (T)(b >> 1), a = (T)(a * a))
        if (b & 1) result = (T)(result * a);
    return result;
}
static inline T magnitude_of(T x) { return (T)(x < 0 ? -x : x); }

#endif
