// Python bindings of the engine: neuromix._runtime.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <optional>

#include "conv_kernels.h"
#include "ops/native/arrays.h"
#include "session.h"

namespace nmx {
namespace {

namespace nb = nanobind;
using namespace nb::literals;

nb::tuple tuple_of(const Shape& s) { return nb::make_tuple(s.channels, s.height, s.width); }

// Memory for an array that Python will own.
class NewArray {
 public:
  explicit NewArray(std::vector<std::size_t> shape) : shape_(std::move(shape)) {
    std::size_t size = 1;
    for (const std::size_t n : shape_) size *= n;
    data_.reset(new float[size]);
  }
  float* data() { return data_.get(); }

  nb::object given_away() {
    float* data = data_.release();
    const nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, float>(data, shape_.size(), shape_.data(), owner));
  }

 private:
  std::vector<std::size_t> shape_;
  std::unique_ptr<float[]> data_;
};

const float* checked(const neuromix::Input& x, const Shape& frame, bool has_steps) {
  const std::string expected =
      text("[", has_steps ? "T, " : "", frame.channels, ", ", frame.height, ", ", frame.width, "]");
  const std::size_t axes = has_steps ? 4 : 3, first = axes - 3;
  if (x.ndim() != axes || x.shape(first) != frame.channels || x.shape(first + 1) != frame.height ||
      x.shape(first + 2) != frame.width || x.dtype() != nb::dtype<float>() || (has_steps && x.shape(0) == 0))
    fail("x must be float32 ", expected, ", it is ", neuromix::describe(x));
  neuromix::require_dense("x", x);
  return static_cast<const float*>(x.data());
}

// A session that Python threads may share: one waits for the other.
class SharedSession {
 public:
  SharedSession(std::shared_ptr<const Program> program, std::int64_t threads, bool keep_all)
      : session_(std::move(program), threads < 0 ? 0 : std::size_t(threads), keep_all) {}

  nb::object run(const neuromix::Input& x, std::optional<std::int64_t> time_steps) {
    if (time_steps && *time_steps < 1) fail("a run takes at least one time step, not ", *time_steps);
    const bool is_static = x.ndim() != 4;
    const float* data = checked(x, graph().input, !is_static);
    const std::size_t given = std::size_t(time_steps.value_or(std::int64_t(graph().time_steps)));
    const std::size_t steps = is_static ? given : x.shape(0);
    if (time_steps && given != steps) fail("x has ", steps, " time steps, not ", *time_steps);
    return filled({graph().outputs()}, [&](float* to) { session_.run(data, steps, is_static, to); });
  }

  nb::object step(const neuromix::Input& x) {
    const float* data = checked(x, graph().input, false);
    return filled({graph().outputs()}, [&](float* to) { session_.step(data, to); });
  }

  nb::object readout() {
    return filled({graph().outputs()}, [&](float* to) { session_.readout(to); });
  }

  void reset() {
    const auto lock = locked();
    session_.reset();
  }

  nb::object value(std::size_t node) {
    std::size_t steps = 0;
    {
      const auto lock = locked();
      steps = session_.value_steps(node);
    }
    const Shape& s = graph().nodes[node].shape;
    return filled({steps, s.channels, s.height, s.width}, [&](float* to) {
      if (session_.value_steps(node) != steps) fail("another thread has used the session meanwhile");
      session_.value(node, to);
    });
  }

  nb::list report() {
    std::vector<LayerReport> layers;
    {
      const auto lock = locked();
      layers = session_.report();
    }
    nb::list all;
    for (std::size_t n = 0; n < layers.size(); ++n) {
      nb::dict layer;
      layer["op"] = graph().nodes[n].op_name;
      layer["name"] = graph().nodes[n].name;
      layer["activity"] = activity_of(layers[n]);
      layer["operations"] = layers[n].operations;
      layer["dense_operations"] = layers[n].dense;
      layer["weight_bytes"] = session_.program().weights(n).bytes;
      layer["seconds"] = layers[n].seconds;
      all.append(layer);
    }
    return all;
  }

 private:
  const Graph& graph() const { return session_.program().graph(); }

  static nb::object activity_of(const LayerReport& layer) {
    return layer.inputs ? nb::object(nb::float_(double(layer.active) / double(layer.inputs))) : nb::none();
  }

  // Whoever waits must not hold the interpreter's lock, which the other one needs.
  std::unique_lock<std::mutex> locked() {
    nb::gil_scoped_release release;
    return std::unique_lock<std::mutex>(mutex_);
  }

  template <typename Fill>
  nb::object filled(std::vector<std::size_t> shape, const Fill& fill) {
    NewArray array(std::move(shape));
    {
      nb::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      fill(array.data());
    }
    return array.given_away();
  }

  Session session_;
  std::mutex mutex_;
};

nb::list nodes_of(const Program& program) {
  nb::list all;
  for (const Node& node : program.graph().nodes) {
    nb::dict entry;
    entry["op"] = node.op_name;
    entry["name"] = node.name;
    entry["inputs"] = nb::cast(node.inputs);
    entry["shape"] = tuple_of(node.shape);
    entry["type"] = name_of(node.type);
    all.append(entry);
  }
  return all;
}

void bind_program(nb::module_& module) {
  nb::class_<Program>(module, "Program", "A network out of an .nmx file. Any number of sessions share it.")
      .def(nb::new_([](const nb::bytes& data) {
             const char* first = data.c_str();
             const std::size_t size = data.size();
             nb::gil_scoped_release release;
             return std::const_pointer_cast<Program>(Program::from_memory(first, size));
           }),
           "data"_a, "From the bytes of a file. Raises ValueError, as from a path.")
      .def(nb::new_([](const std::string& path) {
             nb::gil_scoped_release release;
             return std::const_pointer_cast<Program>(Program::open(path));
           }),
           "path"_a)
      .def_prop_ro("name", [](const Program& p) { return p.graph().name; })
      .def_prop_ro("input_shape", [](const Program& p) { return tuple_of(p.graph().input); })
      .def_prop_ro("time_steps", [](const Program& p) { return p.graph().time_steps; })
      .def_prop_ro("classes", [](const Program& p) { return p.graph().classes; })
      .def_prop_ro("readout", [](const Program& p) { return name_of(p.graph().readout); })
      .def_prop_ro("outputs", [](const Program& p) { return p.graph().outputs(); })
      .def_prop_ro("nodes", &nodes_of, "A dictionary each, with op, name, inputs, shape (C, H, W) and type.");
}

void bind_session(nb::module_& module) {
  nb::class_<SharedSession>(module, "Session", "A network at work: its state, memory and figures.")
      .def(nb::init<std::shared_ptr<const Program>, std::int64_t, bool>(), "program"_a, "threads"_a = 1,
           "keep_all"_a = false)
      .def("run", &SharedSession::run, "x"_a, "time_steps"_a = nb::none(), R"(A run from the initial state.

All steps of x [T, C, H, W], or time_steps of an image x [C, H, W] (by default as many as in training). x is
float32 and contiguous. Returns what is read out, float32 [K].)")
      .def("step", &SharedSession::step, "x"_a, R"(One step more, on x [C, H, W].

Returns the output of this step, float32 [K].)")
      .def("readout", &SharedSession::readout, "What is read out since the last reset, float32 [K].")
      .def("reset", &SharedSession::reset, "Back to the initial state.")
      .def("report", &SharedSession::report, R"(What each node did since the last reset, a dictionary each.

op, name, activity (of a convolution of spikes or integers: the fraction of its inputs that were not 0; else
None), operations (synaptic operations done), dense_operations (those of the same steps if nothing were
skipped), weight_bytes and seconds. A convolution has the time of the neuron or the sum that goes with it.)")
      .def("value", &SharedSession::value, "node"_a, R"(The value of a node in the last run or step.

float32 [T, C, H, W], or [1, C, H, W] where it is the same at every step. Needs keep_all.)");
}

}  // namespace
}  // namespace nmx

NB_MODULE(_runtime, module) {
  module.doc() = R"(The event-driven engine of neuromix in C++.

    Program(data: bytes) | Program(path: str)
        .name -> str, .input_shape -> (C, H, W), .time_steps -> int, .classes -> list[str],
        .readout -> str, .outputs -> int, .nodes -> list[dict] with op, name, inputs, shape and type
    Session(program, threads: int = 1, keep_all: bool = False)
        .run(x: float32 [C, H, W] or [T, C, H, W], time_steps: int | None = None) -> float32 [K]
        .step(x: float32 [C, H, W]) -> float32 [K], .readout() -> float32 [K], .reset()
        .report() -> list[dict], .value(node: int) -> float32 [T, C, H, W]

Mistakes in a file or an argument are ValueErrors with one line.)";
  module.def("kernels", [] { return nmx::kernels().name; }, "The set of kernels in use: portable, avx2 or avx512.");
  nanobind::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const nmx::Error& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
  nmx::bind_program(module);
  nmx::bind_session(module);
}
