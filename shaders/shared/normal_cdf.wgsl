// The standard normal distribution. The complementary error function is the Chebyshev fit of Numerical Recipes (erfcc),
// with a relative error of at most 1.2e-7 everywhere, so that the far tail does not cancel.

fn normal_cdf(x: Pack) -> Pack {
    // Beyond 10 only the last clamp matters.
    let z = min(abs(x) * 0.70710678, Pack(10.0));
    let t = 1.0 / (1.0 + 0.5 * z);
    var sum = Pack(0.17087277);
    sum = fma(sum, t, Pack(-0.82215223));
    sum = fma(sum, t, Pack(1.48851587));
    sum = fma(sum, t, Pack(-1.13520398));
    sum = fma(sum, t, Pack(0.27886807));
    sum = fma(sum, t, Pack(-0.18628806));
    sum = fma(sum, t, Pack(0.09678418));
    sum = fma(sum, t, Pack(0.37409196));
    sum = fma(sum, t, Pack(1.00002368));
    sum = fma(sum, t, Pack(-1.26551223));
    // Clamped to where exp is not a denormal.
    let tail = 0.5 * t * exp(max(sum - z * z, Pack(-86.0)));
    return select(tail, 1.0 - tail, x > Pack());
}

fn normal_density(x: Pack) -> Pack {
    let z = min(abs(x), Pack(15.0));
    return 0.39894228 * exp(max(-0.5 * z * z, Pack(-86.0)));
}
