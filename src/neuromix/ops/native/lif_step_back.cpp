#include "lif_step.h"
#include "slopes.h"

namespace neuromix {
namespace {

// Where ds/dh comes from: filled in before each step, or computed in the same loop.
template <typename Stored, typename P, typename Real = RealOf<Stored>>
struct Given {
  const LifOptions& options;
  const Coefficients<P>& c;
  const WayBack<Stored>& back;

  // `fire` becomes the thresholds of adapting neurons.
  NEUROMIX_INLINE void prepare(const Kept<Real>& kept) const {
    const bool adapts = options.extra == Extra::adaptation;
    if (adapts)
      for (std::size_t n = 0; n < back.w.count; ++n)
        back.fire[n] = adapted(c, Real(options.fire_at), kept.extra[n], n);
    fill_slopes(options.slope, back.w.count, kept.h, adapts ? back.fire : c.fire, c.inverse, back.slope);
  }
  NEUROMIX_INLINE Real operator()(std::size_t n, Real, Real) const { return back.slope[n]; }
};
template <typename Derivative>
struct Computed {
  Derivative derivative;
  template <typename Real>
  NEUROMIX_INLINE void prepare(const Kept<Real>&) const {}
  template <typename Real>
  NEUROMIX_INLINE Real operator()(std::size_t, Real h, Real fire) const {
    return derivative(h - fire);
  }
};
struct None {  // of what never fires
  template <typename... Any>
  explicit None(const Any&...) {}
  template <typename Real>
  NEUROMIX_INLINE void prepare(const Kept<Real>&) const {}
  template <typename Real>
  NEUROMIX_INLINE Real operator()(std::size_t, Real, Real) const {
    return 0;
  }
};

// What one step reads and writes.
template <typename Stored>
struct Step {
  using Real = RealOf<Stored>;
  const Stored *x, *grad_output;
  Kept<Real> kept;
  const Real* extra_before;  // the current of a synapse before the step
  const Real* adapted_fire;
  Stored* grad_x;
  Real* sums;
};

// With `detached` the terms through the reset are left out, else they are there, times 0 if it is detached.
template <Reset reset, Extra extra, bool learning, bool detached, typename Slopes, typename Stored,
          typename P, typename Real = RealOf<Stored>>
NEUROMIX_INLINE void step_back(const Slopes& slopes, const LifOptions& options, std::size_t count,
                               const Coefficients<P>& c, const Step<Stored>& step,
                               const Carried<Real>& carried) {
  const auto [x, grad_output, kept, extra_before, adapted_fire, grad_x, sums] = step;
  const std::size_t row_size = kept.stride;
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

template <Reset reset, Extra extra, bool learning, bool detached, typename Slopes, typename Stored,
          typename P, typename Real = RealOf<Stored>>
NEUROMIX_INLINE void steps_back(const Slopes& slopes, const LifOptions& options, const Coefficients<P>& c,
                                const WayBack<Stored>& back, const RowWriter<Stored>& writer,
                                const Carried<Real>& carried) {
  const Walk<Stored>& w = back.w;
  for (std::size_t t = w.steps; t-- > 0;) {
    prefetch(w.ahead.at(w.steps - 1 - t), w.count * sizeof(Stored));
    const Kept<Real> kept = back.kept.at(t);
    slopes.prepare(kept);
    Stored* const row = back.grad_x.at(t);
    step_back<reset, extra, learning, detached>(
        slopes, options, w.count, c,
        Step<Stored>{w.x.at(t), back.grad_output.at(t), kept, t > 0 ? back.kept.at(t - 1).extra : w.e,
                     back.fire, writer.place(row), back.sums},
        carried);
    writer.write(row, w.count);
  }
}

// The options become template arguments, so that the loop has no branch.
template <Reset reset, Extra extra, typename Stored, typename P, typename... Rest>
NEUROMIX_INLINE void with_learning(const LifOptions& o, const Coefficients<P>& c, const WayBack<Stored>& back,
                                   const Rest&... rest) {
  using Slopes = std::conditional_t<reset == Reset::none, None, Given<Stored, P>>;
  const Slopes slopes{o, c, back};
  if (back.sums) return steps_back<reset, extra, true, false>(slopes, o, c, back, rest...);
  return steps_back<reset, extra, false, false>(slopes, o, c, back, rest...);
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
      return steps_back<reset, Extra::none, false, detached>(with(Sigmoid<Real>(s)), o, rest...);
    case Surrogate::atan:
      return steps_back<reset, Extra::none, false, detached>(with(Atan<Real>(s)), o, rest...);
    case Surrogate::triangle:
      return steps_back<reset, Extra::none, false, detached>(with(Triangle<Real>(s)), o, rest...);
    case Surrogate::rectangle:
      return s.closed
                 ? steps_back<reset, Extra::none, false, detached>(with(Rectangle<Real, true>(s)), o, rest...)
                 : steps_back<reset, Extra::none, false, detached>(with(Rectangle<Real, false>(s)), o,
                                                                   rest...);
    case Surrogate::fast_sigmoid:
      return steps_back<reset, Extra::none, false, detached>(with(FastSigmoid<Real>(s)), o, rest...);
    case Surrogate::erf:
      return steps_back<reset, Extra::none, false, detached>(with(Erf<Real>(s)), o, rest...);
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
      return steps_back<Reset::none, Extra::none, false, true>(None{}, o, rest...);
  }
}

#define NEUROMIX_WALK_BACK(Stored, P, with)                                                                \
  NEUROMIX_CLONES void cloned(const LifOptions& o, const Coefficients<P>& c, const WayBack<Stored>& back,   \
                              const RowWriter<Stored>& writer, const Carried<RealOf<Stored>>& carried) {    \
    with(o, c, back, writer, carried);                                                                     \
  }
NEUROMIX_WALK_BACK(float, float, with_shared_reset<float>)
NEUROMIX_WALK_BACK(double, double, with_shared_reset<double>)
NEUROMIX_WALK_BACK(bfloat16, float, with_shared_reset<float>)
NEUROMIX_WALK_BACK(float, const float*, with_reset)
NEUROMIX_WALK_BACK(double, const double*, with_reset)
NEUROMIX_WALK_BACK(bfloat16, const float*, with_reset)
#undef NEUROMIX_WALK_BACK

}  // namespace

template <typename Stored, typename P>
void walk_back(const LifOptions& options, const Coefficients<P>& c, const WayBack<Stored>& back,
               const RowWriter<Stored>& writer, const Carried<RealOf<Stored>>& carried) {
  cloned(options, c, back, writer, carried);
}

#define NEUROMIX_INSTANTIATE(Stored, P)                                                      \
  template void walk_back(const LifOptions&, const Coefficients<P>&, const WayBack<Stored>&, \
                          const RowWriter<Stored>&, const Carried<RealOf<Stored>>&);
NEUROMIX_INSTANTIATE(float, float)
NEUROMIX_INSTANTIATE(double, double)
NEUROMIX_INSTANTIATE(bfloat16, float)
NEUROMIX_INSTANTIATE(float, const float*)
NEUROMIX_INSTANTIATE(double, const double*)
NEUROMIX_INSTANTIATE(bfloat16, const float*)
#undef NEUROMIX_INSTANTIATE

}  // namespace neuromix
