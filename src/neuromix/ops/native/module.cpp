// Python bindings of the kernels: neuromix._native.
#include "arrays.h"
#include "lif.h"

namespace neuromix {
namespace {

using namespace nb::literals;

void bind_lif(nb::module_& module) {
  module.def(
      "lif_forward",
      [](const Input& x_TN, const Output& v_N, const Output& spikes_TN, double decay, double gain,
         double offset, double v_threshold, double v_reset, bool hard_reset, bool strict,
         std::size_t threads) {
        if (x_TN.ndim() == 0) throw nb::value_error("x_TN must have a time axis");
        require_like("spikes_TN", spikes_TN, "x_TN", x_TN);
        require_like("v_N", v_N, "x_TN", x_TN, 1);
        require_dense("x_TN", x_TN);
        require_dense("v_N", v_N);
        require_dense("spikes_TN", spikes_TN);
        require_apart("x_TN", x_TN, "v_N", v_N);
        require_apart("x_TN", x_TN, "spikes_TN", spikes_TN);
        require_apart("v_N", v_N, "spikes_TN", spikes_TN);
        with_real_type("x_TN", x_TN, [&](auto zero) {
          using Real = decltype(zero);
          const Lif<Real> lif{Real(decay),   Real(gain), Real(offset), Real(v_threshold),
                              Real(v_reset), hard_reset, strict};
          const auto* x = static_cast<const Real*>(x_TN.data());
          auto* v = static_cast<Real*>(v_N.data());
          auto* spikes = static_cast<Real*>(spikes_TN.data());
          const std::size_t steps = x_TN.shape(0), neurons = v_N.size();
          nb::gil_scoped_release release;
          lif_forward(lif, steps, neurons, x, v, spikes, threads);
        });
      },
      "x_TN"_a, "v_N"_a, "spikes_TN"_a, "decay"_a, "gain"_a, "offset"_a, "v_threshold"_a, "v_reset"_a,
      "hard_reset"_a, "strict"_a, "threads"_a = 1,
      R"(Leaky integrate-and-fire over all time steps, in place.

    h = decay * v + gain * x + offset
    s = h > v_threshold if strict else h >= v_threshold
    v = (v_reset if s else h) if hard_reset else h - s * v_threshold

x_TN is the input, time first; N stands for any further axes. v_N holds the membrane potential before
the first step and receives the one after the last; spikes_TN receives 0 or 1. All three are float32 or
float64, contiguous, in CPU memory and apart from one another; any array with DLPack or the buffer
protocol will do (a tensor that requires a gradient must be detached). Up to `threads` threads share
the neurons. Raises TypeError for dtypes and ValueError for shapes and layouts that do not fit.)");
}

nb::dict build_info() {
  nb::dict info;
  info["compiler"] = NEUROMIX_COMPILER;
  info["flags"] = NEUROMIX_FLAGS;
#ifdef NEUROMIX_HAS_TARGET_CLONES
  info["instruction_sets"] = nb::make_tuple("avx512f", "avx2", "default");
#else
  info["instruction_sets"] = nb::make_tuple("default");
#endif
  return info;
}

}  // namespace
}  // namespace neuromix

NB_MODULE(_native, module) {
  module.doc() = "Kernels of neuromix in C++.";
  module.def("build_info", &neuromix::build_info,
             "The compiler, the kernels' flags and the instruction sets that this extension was built with.");
  neuromix::bind_lif(module);
}
