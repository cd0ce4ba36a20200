"""Functions that C and its relatives lack: texts for one type each, see Dialect.helpers.

Polynomials and quotients of them are near-minimax fits (Lawson's iteration) to the function after range reduction. Loops over them become vector code,
which the functions of many C libraries and OpenCL implementations do not.
"""

from __future__ import annotations

ARITHMETIC = {
    "magnitude": "T self(T a) { return (T)(a < 0 ? -a : a); }",
    "sign": "T self(T a) { return a != a ? a : (T)((a > 0) - (a < 0)); }",
    # a != a holds for NaN alone, which wins
    "minimum": "T self(T a, T b) { return (a != a || a < b) ? a : b; }",
    "maximum": "T self(T a, T b) { return (a != a || a > b) ? a : b; }",
    "is_nan": "TRUTH self(T a) { return a != a; }",
    "is_infinite": "TRUTH self(T a) { return %absolute(a) == INFINITY; }",
    "is_finite": "TRUTH self(T a) { return %absolute(a) < INFINITY; }",
    "logaddexp": """T self(T a, T b) {
    const T high = %maximum(a, b), low = %minimum(a, b);
    return high == low ? high + (T)0.693147180559945309 : high + %log1p(%exp(low - high));
}""",
    # Python's remainder: the sign is that of the divisor
    "remainder_float": """T self(T a, T b) {
    const T rest = %fmod(a, b);
    if (rest != 0) return (rest < 0) != (b < 0) ? rest + b : rest;
    return %copysign((T)0, b);
}""",
    "floor_divide_float": """T self(T a, T b) {
    if (b == 0) return a / b;
    const T rest = %fmod(a, b);
    T quotient = (a - rest) / b;  // exact but for rounding, which the last line mends
    if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
    if (quotient == 0) return %copysign((T)0, a / b);
    const T whole = %floor(quotient);
    return quotient - whole > (T)0.5 ? whole + 1 : whole;
}""",
    # division by zero gives 0, as in NumPy; the processor would end the process
    "remainder_integer": """T self(T a, T b) {
    if (b == 0 || ((T)-1 < (T)1 && b == (T)-1)) return 0;
    const T rest = (T)(a % b);
    return (T)(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}""",
    "floor_divide_integer": """T self(T a, T b) {
    if (b == 0) return 0;
    if ((T)-1 < (T)1 && b == (T)-1) return (T)(0 - a);
    const T quotient = (T)(a / b);
    return (T)(quotient - (a % b != 0 && (a < 0) != (b < 0)));
}""",
    "fmod_integer": """T self(T a, T b) {
    return b == 0 || ((T)-1 < (T)1 && b == (T)-1) ? (T)0 : (T)(a % b);
}""",
    "power_integer": """T self(T a, T b) {
    T result = 1;
    if (b < 0) return (T)(a == 1 ? 1 : a == (T)-1 ? (b % 2 ? -1 : 1) : 0);
    for (; b > 0; b = (T)(b / 2), a = (T)(a * a))
        if (b % 2) result = (T)(result * a);
    return result;
}""",
    # shifts by the width of the type or more push all bits out, as in NumPy
    "shift_left": "T self(T a, T b) { return b < 0 || b >= (T)(8 * sizeof(T)) ? (T)0 : (T)(a << b); }",
    "shift_right": """T self(T a, T b) {
    return b < 0 || b >= (T)(8 * sizeof(T)) ? (T)(a < 0 ? -1 : 0) : (T)(a >> b);
}""",
}
"""For every type, or for floating or integer types, as their names say."""

STORAGE = """
FUNCTION unsigned short bfloat16_bits(float x) {
    const unsigned int bits = AS_UINT(x);
    const unsigned int rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to the nearest, ties to even
    return (unsigned short)(x != x ? (bits >> 16) | 0x40u : rounded);
}
FUNCTION float bfloat16_value(unsigned short bits) { return AS_FLOAT((unsigned int)bits << 16); }

FUNCTION float half_value(unsigned short bits) {
    const unsigned int rest = (unsigned int)(bits & 0x7fff) << 13;
    const float scaled = AS_FLOAT(rest) * 5.192296858534828e33f;  // 2^112: the difference of the exponents' biases
    const unsigned int magnitude = rest >= 0x0f800000u ? rest | 0x7f800000u : AS_UINT(scaled);
    return AS_FLOAT(magnitude | (unsigned int)(bits & 0x8000) << 16);
}

FUNCTION unsigned short half_bits(float x) {
    const unsigned int bits = AS_UINT(x), magnitude = bits & 0x7fffffffu;
    const unsigned int normal = (magnitude + 0x0fffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;  // ties to even
    const unsigned int subnormal = AS_UINT(AS_FLOAT(magnitude) + 0.5f) - 0x3f000000u;  // the addition rounds
    const unsigned int finite = magnitude < 0x38800000u ? subnormal : normal;
    const unsigned int large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return (unsigned short)((magnitude >= 0x477ff000u ? large : finite) | ((bits >> 16) & 0x8000u));
}
"""
"""How float16 and bfloat16 are stored, in the macros of kernels: no device needs to know these types."""

ROUNDING = {
    "rounded_to_float16": "T self(T x) { return half_value(half_bits(x)); }",
    "rounded_to_bfloat16": "T self(T x) { return bfloat16_value(bfloat16_bits(x)); }",
}

POLYNOMIALS = {
    # fabs would keep a loop from becoming vector code on PoCL 3.0
    "without_sign": "float self(float x) { return AS_FLOAT(AS_INT(x) & 0x7fffffff); }",
    "with_sign_of": "float self(float x, float y) { return AS_FLOAT((AS_INT(y) & 0x7fffffff) | (AS_INT(x) & ~0x7fffffff)); }",
    # exp(x) = (2^n)^2 exp(r), n = round(x / (2 ln 2)), |r| <= ln(2): 2^n is a number for all x, (2^n)^2 may be infinite, or subnormal
    "exponential": """float self(float x) {
    const float shift = 12583039.0f;  // 1.5 * 2^23 + 127: adding it rounds to an integer, and n + 127 stands in the low bits
    x = x < -105.0f ? -105.0f : x;
    x = x > 90.0f ? 90.0f : x;
    const float shifted = x * 0.72134752f + shift;
    const float whole = shifted - shift;
    const float r = (x - whole * 1.38629150f) - whole * 2.85721353e-6f;
    float p = 1.961174130e-4f;
    p = p * r + 1.410435420e-3f;
    p = p * r + 8.336099796e-3f;
    p = p * r + 4.166127369e-2f;
    p = p * r + 1.666661352e-1f;
    p = p * r + 5.000003576e-1f;
    p = p * r + 1.0f;
    const float power = AS_FLOAT(AS_INT(shifted) << 23);
    return (p * (r * power) + power) * power;
}""",
    # 1 / (1 + exp(-x)) = 2^n / (2^n + exp(-r)), n = round(x / ln 2), |r| <= ln(2) / 2; 0 where it would be subnormal, 1 beyond 30
    "logistic": """float self(float x) {
    const float shift = 12583039.0f;
    x = x < -87.9f ? -87.9f : x;
    x = x > 30.0f ? 30.0f : x;
    const float shifted = x * 1.44269504f + shift;
    const float whole = shifted - shift;
    const float r = (whole * 0.693145752f - x) + whole * 1.42860677e-6f;
    float p = 1.3814163e-3f;
    p = p * r + 8.368898e-3f;
    p = p * r + 4.1668408e-2f;
    p = p * r + 1.666652e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const float power = AS_FLOAT(AS_INT(shifted) << 23);
    return power / (power + p);
}""",
    # exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), n = round(x / ln 2), |r| <= ln(2) / 2; for -30 <= x <= 88.9, where half of it is a number
    "bounded_exponential_minus_one": """float self(float x) {
    const float shift = 12583038.0f;  // 1.5 * 2^23 + 126
    const float shifted = x * 1.44269504f + shift;
    const float whole = shifted - shift;
    const float r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
    float p = 1.388251781e-3f;
    p = p * r + 8.366538212e-3f;
    p = p * r + 4.166720062e-2f;
    p = p * r + 1.666654348e-1f;
    p = p * r + 4.999999702e-1f;
    const float half_power = AS_FLOAT(AS_INT(shifted) << 23);
    return 2.0f * ((p * r * r + r) * half_power + (half_power - 0.5f));
}""",
    "exponential_minus_one": """float self(float x) {
    float bounded = x < -30.0f ? -30.0f : x;
    bounded = bounded > 88.9f ? 88.9f : bounded;
    return @with_sign_of(x, @bounded_exponential_minus_one(bounded));
}""",
    # log(2^k (1 + f)) = k ln 2 + f - f^2 / 2 + f^3 p(f), sqrt(1/2) <= 1 + f < sqrt(2)
    "logarithm": """float self(float x) {
    const int subnormal = x < 1.17549435e-38f;
    const int bits = AS_INT(subnormal ? x * 8388608.0f : x);
    const int k = (bits - 0x3f3504f3) >> 23;
    const float f = AS_FLOAT(bits - (k << 23)) - 1.0f;
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
}""",
    "logarithm_of_one_plus": """float self(float x) {
    const float sum = 1.0f + x;
    const float lost = (x - (sum - 1.0f)) / sum;  // what rounding the sum has lost
    const float result = @logarithm(sum) + (sum < 1e30f && sum > 0.0f ? lost : 0.0f);
    return sum == 1.0f ? x : result;
}""",
    # x P(x^2) / Q(x^2), with a relative error below 2.3e-8; 1 beyond 9.02
    "hyperbolic_tangent": """float self(float x) {
    x = x < -9.02f ? -9.02f : x;
    x = x > 9.02f ? 9.02f : x;
    const float square = x * x;
    float p = 1.33843745e-8f;
    p = p * square + 2.0635887e-5f;
    p = p * square + 3.4974618e-3f;
    p = p * square + 1.3382691e-1f;
    p = p * square + 1.0f;
    float q = 7.790285e-7f;
    q = q * square + 3.288524e-4f;
    q = q * square + 2.5884377e-2f;
    q = q * square + 4.671601e-1f;
    q = q * square + 1.0f;
    return x * p / q;
}""",
    # erf(t) = 1 - exp(t q(t)), q(t) = log(1 - erf(t)) / t for 0 <= t <= 3.95; it rounds to 1 beyond
    "error_function": """float self(float x) {
    const float magnitude = @without_sign(x), t = magnitude > 3.95f ? 3.95f : magnitude;
    float q = 9.256417798e-6f;
    q = q * t - 1.176426958e-4f;
    q = q * t + 6.328421878e-4f;
    q = q * t - 1.667037723e-3f;
    q = q * t + 1.604070567e-4f;
    q = q * t + 1.915305667e-2f;
    q = q * t - 1.027778313e-1f;
    q = q * t - 6.366193891e-1f;
    q = q * t - 1.128379226f;
    return @with_sign_of(x, @bounded_exponential_minus_one(q * t));
}""",
}
"""For float32 alone."""
