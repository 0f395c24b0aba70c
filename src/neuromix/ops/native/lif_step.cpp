#include "lif_step.h"

namespace neuromix {
namespace {

template <Extra extra, typename P, typename Real>
NEUROMIX_INLINE bool fires(const Coefficients<P>& c, Real fire_at, bool strict, Real h, Real trace,
                           std::size_t n) {
  if (extra != Extra::adaptation) return h >= at(c.level, n);
  const Real fire = adapted(c, fire_at, trace, n);
  return strict ? h > fire : h >= fire;
}

enum class Keep { nothing, potentials, all };

template <Reset reset, Extra extra, Keep keep, typename Stored, typename P, typename Real = RealOf<Stored>>
NEUROMIX_INLINE void step(const LifOptions& options, std::size_t count, const Coefficients<P>& c,
                          const Stored* x, Real* v, Real* e, Stored* output, const Kept<Real>& kept) {
  const Real v_reset = Real(options.v_reset), fire_at = Real(options.fire_at);
  const bool strict = options.strict;
  NEUROMIX_INDEPENDENT
  for (std::size_t n = 0; n < count; ++n) {
    const Real before = v[n], trace = extra == Extra::none ? Real(0) : e[n];
    // Loaded whether used or not: a load under a condition would keep the loop from being vectorised.
    const Real threshold = at(c.threshold, n), height = at(c.height, n);
    Real current = load(x[n]);
    if (extra == Extra::synapse) e[n] = current = at(c.extra_decay, n) * trace + current;
    Real h = at(c.decay, n) * before + at(c.gain, n) * current + at(c.offset, n);
    if (reset == Reset::next) h = h - (before >= at(c.level, n) ? threshold : Real(0));
    const bool s = reset != Reset::none && fires<extra>(c, fire_at, strict, h, trace, n);
    if (extra == Extra::adaptation) e[n] = at(c.extra_decay, n) * trace + (s ? Real(1) : Real(0));
    if (reset == Reset::hard)
      v[n] = s ? v_reset : h;
    else if (reset == Reset::soft)
      v[n] = h - (s ? threshold : Real(0));
    else
      v[n] = h;
    if (keep == Keep::nothing) {
      output[n] = store<Stored>(reset == Reset::none ? h : s ? height : Real(0));
    } else {
      kept.h[n] = h;
      if (keep == Keep::all) kept.before[n] = before;
      if (extra != Extra::none) kept.extra[n] = extra == Extra::synapse ? current : trace;
    }
  }
}

template <Reset reset, Extra extra, Keep keep, typename Stored, typename P>
NEUROMIX_INLINE void steps(const LifOptions& options, const Coefficients<P>& c, const Walk<Stored>& w,
                           const Rows<Stored>& output, const RowWriter<Stored>& writer,
                           const Kept<RealOf<Stored>>& kept) {
  for (std::size_t t = 0; t < w.steps; ++t) {
    prefetch(w.ahead.at(t), w.count * sizeof(Stored));
    Stored* const row = output.at(t);
    step<reset, extra, keep>(options, w.count, c, w.x.at(t), w.v, w.e, writer.place(row), kept.at(t));
    if (keep == Keep::nothing) writer.write(row, w.count);
  }
}

// The options become template arguments, so that the loop has no branch.
template <Reset reset, Extra extra, typename Stored, typename... Rest>
NEUROMIX_INLINE void with_keep(const LifOptions& options, const Kept<RealOf<Stored>>& kept,
                               const Rest&... rest) {
  if (!kept.h) return steps<reset, extra, Keep::nothing, Stored>(options, rest..., kept);
  if (!kept.before) return steps<reset, extra, Keep::potentials, Stored>(options, rest..., kept);
  return steps<reset, extra, Keep::all, Stored>(options, rest..., kept);
}

template <Reset reset, typename Stored, typename... Rest>
NEUROMIX_INLINE void with_extra(const LifOptions& options, const Rest&... rest) {
  switch (options.extra) {
    case Extra::none:
      return with_keep<reset, Extra::none, Stored>(options, rest...);
    case Extra::synapse:
      return with_keep<reset, Extra::synapse, Stored>(options, rest...);
    case Extra::adaptation:
      return with_keep<reset, Extra::adaptation, Stored>(options, rest...);
  }
}

template <typename Stored, typename... Rest>
NEUROMIX_INLINE void with_reset(const LifOptions& options, const Rest&... rest) {
  switch (options.reset) {
    case Reset::hard:
      return with_extra<Reset::hard, Stored>(options, rest...);
    case Reset::soft:
      return with_extra<Reset::soft, Stored>(options, rest...);
    case Reset::next:
      return with_extra<Reset::next, Stored>(options, rest...);
    case Reset::none:
      return with_keep<Reset::none, Extra::none, Stored>(options, rest...);
  }
}

template <typename Stored, typename... Rest>
NEUROMIX_INLINE void with_shared_reset(const LifOptions& options, const Rest&... rest) {
  switch (options.reset) {
    case Reset::hard:
      return with_keep<Reset::hard, Extra::none, Stored>(options, rest...);
    case Reset::soft:
      return with_keep<Reset::soft, Extra::none, Stored>(options, rest...);
    default:
      return with_keep<Reset::none, Extra::none, Stored>(options, rest...);
  }
}

#define NEUROMIX_WALK(Stored, P, with)                                                              \
  NEUROMIX_CLONES void cloned(const LifOptions& o, const Coefficients<P>& c, const Walk<Stored>& w, \
                              const Rows<Stored>& output, const RowWriter<Stored>& writer,          \
                              const Kept<RealOf<Stored>>& kept) {                                   \
    with<Stored>(o, kept, c, w, output, writer);                                                    \
  }
NEUROMIX_WALK(float, float, with_shared_reset)
NEUROMIX_WALK(double, double, with_shared_reset)
NEUROMIX_WALK(bfloat16, float, with_shared_reset)
NEUROMIX_WALK(float, const float*, with_reset)
NEUROMIX_WALK(double, const double*, with_reset)
NEUROMIX_WALK(bfloat16, const float*, with_reset)
#undef NEUROMIX_WALK

}  // namespace

template <typename Stored, typename P>
void walk(const LifOptions& options, const Coefficients<P>& c, const Walk<Stored>& w,
          const Rows<Stored>& output, const RowWriter<Stored>& writer, const Kept<RealOf<Stored>>& kept) {
  cloned(options, c, w, output, writer, kept);
}

#define NEUROMIX_INSTANTIATE(Stored, P)                                                                  \
  template void walk(const LifOptions&, const Coefficients<P>&, const Walk<Stored>&, const Rows<Stored>&, \
                     const RowWriter<Stored>&, const Kept<RealOf<Stored>>&);
NEUROMIX_INSTANTIATE(float, float)
NEUROMIX_INSTANTIATE(double, double)
NEUROMIX_INSTANTIATE(bfloat16, float)
NEUROMIX_INSTANTIATE(float, const float*)
NEUROMIX_INSTANTIATE(double, const double*)
NEUROMIX_INSTANTIATE(bfloat16, const float*)
#undef NEUROMIX_INSTANTIATE

}  // namespace neuromix
