#include "lif_step.h"
#include "slopes.h"

namespace neuromix {
namespace {

// Where ds/dh comes from: filled in before, or computed in the same loop.
template <typename Real>
struct Given {
  const Real* slope;
  NEUROMIX_INLINE Real operator()(std::size_t n, Real, Real) const { return slope[n]; }
};
template <typename Derivative>
struct Computed {
  Derivative derivative;
  template <typename Real>
  NEUROMIX_INLINE Real operator()(std::size_t, Real h, Real fire) const {
    return derivative(h - fire);
  }
};

// With `detached` the terms through the reset are left out, else they are there, times 0 if it is detached.
template <Reset reset, Extra extra, bool learning, bool detached, typename Slopes, typename Stored,
          typename P, typename Real = RealOf<Stored>>
NEUROMIX_INLINE void loop(const Slopes& slopes, const LifOptions& options, std::size_t count,
                          const Coefficients<P>& c, const BackStep<Stored>& back,
                          const Carried<Real>& carried) {
  const auto [x, grad_output, kept, extra_before, adapted_fire, _slope, grad_x, sums, row_size] = back;
  const Real v_reset = Real(options.v_reset), fire_at = Real(options.fire_at);
  const Real through = options.detach_reset ? Real(0) : Real(1), ratio = options.ratio ? Real(1) : Real(0);
  const bool strict = options.strict;
  NEUROMIX_INDEPENDENT
  for (std::size_t n = 0; n < count; ++n) {
    const Real h = kept.h[n], gv = carried.v[n], gy = load(grad_output[n]);
    const Real ge = extra == Extra::none ? Real(0) : carried.extra[n];
    const Real trace = extra == Extra::adaptation ? kept.extra[n] : Real(0);
    const bool fired = reset != Reset::none && (extra != Extra::adaptation ? h >= at(c.level, n)
                                                : strict                   ? h > adapted_fire[n]
                                                                           : h >= adapted_fire[n]);

    // From the output, the reset and the adaptation to the spike, and through it to h.
    Real gu = 0, gh = gy + gv;  // of a leaky integrator
    if (reset != Reset::none) {
      Real gs = at(c.height, n) * gy;
      if (extra == Extra::adaptation) gs += ge;
      if (reset == Reset::hard && !detached) gs += through * gv * (v_reset - h);
      if (reset == Reset::soft && !detached) gs -= through * gv * at(c.threshold, n);
      if (reset == Reset::next) gs -= through * carried.h[n] * at(c.threshold, n);
      gu = gs * slopes(n, h, at(c.fire, n));
      gh = gu + (reset == Reset::hard && fired ? Real(0) : gv);
    }
    Real gx = at(c.gain, n) * gh;
    if (extra == Extra::synapse) gx += ge;

    if (learning) {
      Real* const sum = sums + n;
      const Real current = extra == Extra::synapse ? kept.extra[n] : load(x[n]);
      const Real before = kept.before[n];
      // du/dfire is -1, times h/fire where u is a ratio.
      const Real g_fire = -fire_at * gu * (1 + ratio * (h * at(c.inverse, n) - 1));
      Real g_threshold = g_fire;
      if (reset == Reset::soft) g_threshold -= fired ? gv : Real(0);
      if (reset == Reset::next) g_threshold -= before >= at(c.level, n) ? gh : Real(0);
      sum[kDecay * row_size] += gh * before;
      sum[kGain * row_size] += gh * current;
      sum[kOffset * row_size] += gh;
      sum[kThreshold * row_size] += g_threshold;
      sum[kHeight * row_size] += fired ? gy : Real(0);
      if (extra == Extra::synapse) sum[kExtraDecay * row_size] += gx * extra_before[n];
      if (extra == Extra::adaptation) sum[kExtraDecay * row_size] += ge * trace;
      if (extra == Extra::adaptation) sum[kStrength * row_size] += g_fire * trace;
    }

    if (extra == Extra::synapse) carried.extra[n] = at(c.extra_decay, n) * gx;
    if (extra == Extra::adaptation)
      carried.extra[n] = at(c.extra_decay, n) * ge - fire_at * at(c.strength, n) * gu;
    carried.v[n] = at(c.decay, n) * gh;
    if (reset == Reset::next) carried.h[n] = gh;
    grad_x[n] = store<Stored>(gx);
  }
}

// The options become template arguments, so that the loop has no branch.
template <Reset reset, Extra extra, typename Stored, typename P>
NEUROMIX_INLINE void with_learning(const LifOptions& o, std::size_t count, const Coefficients<P>& c,
                                   const BackStep<Stored>& back, const Carried<RealOf<Stored>>& carried) {
  const Given<RealOf<Stored>> slopes{back.slope};
  if (back.sums) return loop<reset, extra, true, false>(slopes, o, count, c, back, carried);
  return loop<reset, extra, false, false>(slopes, o, count, c, back, carried);
}

template <Reset reset, typename... Rest>
NEUROMIX_INLINE void with_extra(const LifOptions& o, const Rest&... rest) {
  switch (o.extra) {
    case Extra::none:
      return with_learning<reset, Extra::none>(o, rest...);
    case Extra::synapse:
      return with_learning<reset, Extra::synapse>(o, rest...);
    case Extra::adaptation:
      return with_learning<reset, Extra::adaptation>(o, rest...);
  }
}

template <typename... Rest>
NEUROMIX_INLINE void with_reset(const LifOptions& o, const Rest&... rest) {
  switch (o.reset) {
    case Reset::hard:
      return with_extra<Reset::hard>(o, rest...);
    case Reset::soft:
      return with_extra<Reset::soft>(o, rest...);
    case Reset::next:
      return with_extra<Reset::next>(o, rest...);
    case Reset::none:
      return with_learning<Reset::none, Extra::none>(o, rest...);
  }
}

template <Reset reset, bool detached, typename Real, typename... Rest>
NEUROMIX_INLINE void with_slope(const LifOptions& o, const Rest&... rest) {
  const auto with = [](auto derivative) { return Computed<decltype(derivative)>{derivative}; };
  const Slope& s = o.slope;
  switch (s.kind) {
    case Surrogate::sigmoid:
      return loop<reset, Extra::none, false, detached>(with(Sigmoid<Real>(s)), o, rest...);
    case Surrogate::atan:
      return loop<reset, Extra::none, false, detached>(with(Atan<Real>(s)), o, rest...);
    case Surrogate::triangle:
      return loop<reset, Extra::none, false, detached>(with(Triangle<Real>(s)), o, rest...);
    case Surrogate::rectangle:
      return s.closed
                 ? loop<reset, Extra::none, false, detached>(with(Rectangle<Real, true>(s)), o, rest...)
                 : loop<reset, Extra::none, false, detached>(with(Rectangle<Real, false>(s)), o, rest...);
    case Surrogate::fast_sigmoid:
      return loop<reset, Extra::none, false, detached>(with(FastSigmoid<Real>(s)), o, rest...);
    case Surrogate::erf:
      return loop<reset, Extra::none, false, detached>(with(Erf<Real>(s)), o, rest...);
  }
}

template <typename Real, typename... Rest>
NEUROMIX_INLINE void with_shared_reset(const LifOptions& o, const Rest&... rest) {
  switch (o.reset) {
    case Reset::hard:
      return o.detach_reset ? with_slope<Reset::hard, true, Real>(o, rest...)
                            : with_slope<Reset::hard, false, Real>(o, rest...);
    case Reset::soft:
      return o.detach_reset ? with_slope<Reset::soft, true, Real>(o, rest...)
                            : with_slope<Reset::soft, false, Real>(o, rest...);
    default:
      return loop<Reset::none, Extra::none, false, true>(Given<Real>{}, o, rest...);
  }
}

#define NEUROMIX_STEP_BACK(Stored, P, with)                                                           \
  NEUROMIX_CLONES void cloned(const LifOptions& o, std::size_t count, const Coefficients<P>& c,       \
                              const BackStep<Stored>& back, const Carried<RealOf<Stored>>& carried) { \
    with(o, count, c, back, carried);                                                                 \
  }
NEUROMIX_STEP_BACK(float, float, with_shared_reset<float>)
NEUROMIX_STEP_BACK(double, double, with_shared_reset<double>)
NEUROMIX_STEP_BACK(bfloat16, float, with_shared_reset<float>)
NEUROMIX_STEP_BACK(float, const float*, with_reset)
NEUROMIX_STEP_BACK(double, const double*, with_reset)
NEUROMIX_STEP_BACK(bfloat16, const float*, with_reset)
#undef NEUROMIX_STEP_BACK

}  // namespace

template <typename Stored, typename P>
void step_back(const LifOptions& options, std::size_t count, const Coefficients<P>& c,
               const BackStep<Stored>& back, const Carried<RealOf<Stored>>& carried) {
  cloned(options, count, c, back, carried);
}

#define NEUROMIX_INSTANTIATE(Stored, P)                                                                    \
  template void step_back(const LifOptions&, std::size_t, const Coefficients<P>&, const BackStep<Stored>&, \
                          const Carried<RealOf<Stored>>&);
NEUROMIX_INSTANTIATE(float, float)
NEUROMIX_INSTANTIATE(double, double)
NEUROMIX_INSTANTIATE(bfloat16, float)
NEUROMIX_INSTANTIATE(float, const float*)
NEUROMIX_INSTANTIATE(double, const double*)
NEUROMIX_INSTANTIATE(bfloat16, const float*)
#undef NEUROMIX_INSTANTIATE

}  // namespace neuromix
