// Python bindings of the kernels: neuromix._native.
#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <tuple>
#include <type_traits>

#include "arrays.h"
#include "levels.h"
#include "lif.h"
#include "selective_scan.h"
#include "sparse_conv.h"

namespace neuromix {
namespace {

using namespace nb::literals;

// Memory that Python names by its address, 0 for none. The ops in Python have checked what lies there: a
// conversion of each tensor to an array would take longer than a small kernel.
using Address = std::uintptr_t;

template <typename T>
T* as(Address address) {
  return reinterpret_cast<T*>(address);
}

// Calls function(Stored{}) with the C++ type that a number stands for: the position in Python's list of
// dtypes.
template <typename Function>
void with_stored_type(int dtype, const Function& function) {
  switch (dtype) {
    case 0:
      return function(float{});
    case 1:
      return function(double{});
    case 2:
      return function(bfloat16{});
  }
  throw nb::value_error("unknown dtype");
}

// LifOptions as Python gives them: row, v_init, v_reset, fire_at, reset, extra, strict, detach_reset, ratio,
// and of the slope kind, shape, scale, closed.
using Options = std::tuple<std::array<double, kRows>, double, double, double, int, int, bool, bool, bool, int,
                           double, double, bool>;

LifOptions options_of(const Options& options) {
  const auto& [row, v_init, v_reset, fire_at, reset, extra, strict, detach_reset, ratio, kind, shape, scale,
               closed] = options;
  LifOptions o{
      Reset(reset), Extra(extra), strict, detach_reset, ratio,
      v_reset,      fire_at,      v_init, {},           Slope{Surrogate(kind), shape, scale, closed}};
  std::copy(row.begin(), row.end(), o.row);
  return o;
}

struct LifShape {
  std::size_t steps, neurons, channels, inner;
};

struct LifArrays {
  Address x;
  std::ptrdiff_t x_stride;
  Address v, extra, table;
};

template <typename Job>
Job job_of(const LifOptions& options, const LifShape& shape, const LifArrays& arrays) {
  using Real = typename Job::Real;
  Job job{};
  job.options = options;
  job.steps = shape.steps;
  job.neurons = shape.neurons;
  job.channels = shape.channels;
  job.inner = shape.inner;
  job.x_TN = as<const std::remove_const_t<std::remove_pointer_t<decltype(job.x_TN)>>>(arrays.x);
  job.x_stride = arrays.x_stride;
  job.v_N = as<const Real>(arrays.v);
  job.extra_N = as<const Real>(arrays.extra);
  job.table = as<const Real>(arrays.table);
  return job;
}

void bind_lif(nb::module_& module) {
  module.def(
      "lif",
      [](int dtype, const Options& options, std::array<std::size_t, 4> shape, Address x,
         std::ptrdiff_t x_stride, Address v, Address extra, Address table, Address output, Address v_last,
         Address extra_last, std::size_t threads) {
        nb::gil_scoped_release release;
        with_stored_type(dtype, [&](auto zero) {
          using Stored = decltype(zero);
          auto job = job_of<LifForward<Stored>>(options_of(options), {shape[0], shape[1], shape[2], shape[3]},
                                                {x, x_stride, v, extra, table});
          job.output_TN = as<Stored>(output);
          job.v_last_N = as<RealOf<Stored>>(v_last);
          job.extra_last_N = as<RealOf<Stored>>(extra_last);
          run(job, threads);
        });
      },
      "Runs LifForward (lif.h) on memory given by address; shape is (steps, neurons, channels, inner).");

  module.def(
      "lif_backward",
      [](int dtype, const Options& options, std::array<std::size_t, 4> shape, Address x,
         std::ptrdiff_t x_stride, Address v, Address extra, Address table, Address grad_output,
         std::ptrdiff_t grad_stride, Address grad_v_last, Address grad_extra_last, Address grad_x,
         Address grad_v, Address grad_extra, Address grad_table, std::size_t threads) {
        nb::gil_scoped_release release;
        with_stored_type(dtype, [&](auto zero) {
          using Stored = decltype(zero);
          using Real = RealOf<Stored>;
          auto job = job_of<LifBackward<Stored>>(
              options_of(options), {shape[0], shape[1], shape[2], shape[3]}, {x, x_stride, v, extra, table});
          job.grad_output_TN = as<const Stored>(grad_output);
          job.grad_stride = grad_stride;
          job.grad_v_last_N = as<const Real>(grad_v_last);
          job.grad_extra_last_N = as<const Real>(grad_extra_last);
          job.grad_x_TN = as<Stored>(grad_x);
          job.grad_v_N = as<Real>(grad_v);
          job.grad_extra_N = as<Real>(grad_extra);
          job.grad_table = as<Real>(grad_table);
          run(job, threads);
        });
      },
      "Runs LifBackward (lif.h) on memory given by address; shape is (steps, neurons, channels, inner).");
}

void bind_levels(nb::module_& module) {
  module.def(
      "levels",
      [](int dtype, double gain, double levels, double unit, std::size_t steps, std::size_t neurons,
         Address x, std::ptrdiff_t x_stride, Address grad, std::ptrdiff_t grad_stride, Address output,
         std::size_t threads) {
        nb::gil_scoped_release release;
        with_stored_type(dtype, [&](auto zero) {
          using Stored = decltype(zero);
          run(LevelsJob<Stored>{{gain, levels, unit},
                                steps,
                                neurons,
                                as<const Stored>(x),
                                x_stride,
                                as<const Stored>(grad),
                                grad_stride,
                                as<Stored>(output)},
              threads);
        });
      },
      "Runs LevelsJob (levels.h) on memory given by address: backward where there is a gradient.");
}

// Calls function(Real{}) for float and double.
template <typename Function>
void with_whole_type(int dtype, const Function& function) {
  with_stored_type(dtype, [&](auto zero) {
    if constexpr (std::is_same_v<decltype(zero), bfloat16>)
      throw nb::value_error("this kernel takes float32 or float64");
    else
      function(zero);
  });
}

// taps, outputs, rows, in_channels, out_channels
using ConvShape = std::array<std::size_t, 5>;

void bind_sparse_conv(nb::module_& module) {
  module.def(
      "sparse_conv",
      [](int dtype, const ConvShape& shape, Address x, Address weight, Address table, Address y,
         std::size_t threads) {
        nb::gil_scoped_release release;
        with_whole_type(dtype, [&](auto zero) {
          using Real = decltype(zero);
          run(SparseConv<Real>{shape[0], shape[1], shape[2], shape[3], shape[4], as<const Real>(x),
                               as<const Real>(weight), as<const std::int32_t>(table), as<Real>(y)},
              threads);
        });
      },
      "Runs SparseConv (sparse_conv.h) on memory given by address.");
  module.def(
      "sparse_conv_weight",
      [](int dtype, const ConvShape& shape, Address x, Address grad, Address table, Address output,
         std::size_t threads) {
        nb::gil_scoped_release release;
        with_whole_type(dtype, [&](auto zero) {
          using Real = decltype(zero);
          run(SparseConvWeight<Real>{shape[0], shape[1], shape[2], shape[3], shape[4], as<const Real>(x),
                                     as<const Real>(grad), as<const std::int32_t>(table),
                                     as<Real>(output)},
              threads);
        });
      },
      "Runs SparseConvWeight (sparse_conv.h) on memory given by address.");
  module.def(
      "neighbour_table",
      [](std::size_t taps, std::size_t count, Address sorted, Address order, Address shifts, Address table,
         std::size_t threads) {
        nb::gil_scoped_release release;
        run(NeighbourTable{taps, count, as<const std::int64_t>(sorted), as<const std::int64_t>(order),
                           as<const std::int64_t>(shifts), as<std::int32_t>(table)},
            threads);
      },
      "Runs NeighbourTable (sparse_conv.h) on memory given by address.");
}

// batch, length, channels, states, groups
using ScanSizes = std::array<std::size_t, 5>;

// x, delta, A, B, C, reset
using ScanInputs = std::array<Address, 6>;

template <typename Real, typename Job>
void give_inputs(const ScanSizes& sizes, const ScanInputs& inputs, Job& job) {
  static_cast<ScanShape&>(job) = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  job.x_BLD = as<const Real>(inputs[0]);
  job.delta_BLD = as<const Real>(inputs[1]);
  job.A_DN = as<const Real>(inputs[2]);
  job.B_BLGN = as<const Real>(inputs[3]);
  job.C_BLGN = as<const Real>(inputs[4]);
  job.reset_BL = as<const std::uint8_t>(inputs[5]);
}

void bind_selective_scan(nb::module_& module) {
  module.def(
      "selective_scan",
      [](int dtype, const ScanSizes& sizes, const ScanInputs& inputs, Address state, Address y, Address last,
         Address kept, std::size_t threads) {
        nb::gil_scoped_release release;
        with_whole_type(dtype, [&](auto zero) {
          using Real = decltype(zero);
          SelectiveScan<Real> job{};
          give_inputs<Real>(sizes, inputs, job);
          job.state_BDN = as<const Real>(state);
          job.y_BLD = as<Real>(y);
          job.last_BDN = as<Real>(last);
          job.kept_BTDN = as<Real>(kept);
          run(job, threads);
        });
      },
      "Runs SelectiveScan (selective_scan.h) on memory given by address.");
  module.def(
      "selective_scan_backward",
      [](int dtype, const ScanSizes& sizes, const ScanInputs& inputs, Address kept, Address grad_y,
         Address grad_last, const ScanInputs& gradients, std::size_t threads) {
        nb::gil_scoped_release release;
        with_whole_type(dtype, [&](auto zero) {
          using Real = decltype(zero);
          SelectiveScanBack<Real> job{};
          give_inputs<Real>(sizes, inputs, job);
          job.kept_BTDN = as<const Real>(kept);
          job.grad_y_BLD = as<const Real>(grad_y);
          job.grad_last_BDN = as<const Real>(grad_last);
          job.grad_x_BLD = as<Real>(gradients[0]);
          job.grad_delta_BLD = as<Real>(gradients[1]);
          job.grad_A_BDN = as<Real>(gradients[2]);
          job.grad_B_SBLGN = as<Real>(gradients[3]);
          job.grad_C_SBLGN = as<Real>(gradients[4]);
          job.grad_state_BDN = as<Real>(gradients[5]);
          run(job, threads);
        });
      },
      "Runs SelectiveScanBack (selective_scan.h) on memory given by address.");
  module.attr("SCAN_STEPS") = kScanSteps;
  module.attr("SCAN_SLICE") = kScanSlice;
}

// The plainest neuron on arrays of any library.
void bind_lif_forward(nb::module_& module) {
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
          LifForward<Real> job{};
          job.options = {
              hard_reset ? Reset::hard : Reset::soft,  Extra::none, strict, true, false, v_reset, 1.0, 0.0,
              {decay, gain, offset, v_threshold, 1.0}, {}};
          job.steps = x_TN.shape(0);
          job.neurons = v_N.size();
          job.channels = job.inner = 1;
          job.x_TN = static_cast<const Real*>(x_TN.data());
          job.x_stride = std::ptrdiff_t(job.neurons);
          job.output_TN = static_cast<Real*>(spikes_TN.data());
          job.v_last_N = static_cast<Real*>(v_N.data());
          job.v_N = job.v_last_N;
          nb::gil_scoped_release release;
          run(job, threads);
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
#ifdef NEUROMIX_CLONE_TARGETS
  info["instruction_sets"] = nb::make_tuple(NEUROMIX_CLONE_TARGETS);
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
  neuromix::bind_lif_forward(module);
  neuromix::bind_lif(module);
  neuromix::bind_levels(module);
  neuromix::bind_selective_scan(module);
  neuromix::bind_sparse_conv(module);
}
