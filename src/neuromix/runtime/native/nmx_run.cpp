// nmx-run: runs a network on arrays in .npy files.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>

#include "npy.h"
#include "session.h"

namespace nmx {
namespace {

constexpr const char* kUsage = R"(usage: nmx-run NET.nmx --input X.npy --output Y.npy [options]

Runs a spiking network on float32 arrays: images [C, H, W] or [B, C, H, W], or with --frames sequences
[T, C, H, W] or [B, T, C, H, W]. Y gets what is read out, [K] or [B, K].

  --time-steps T  how often an image is shown (default: as often as in training)
  --frames        the input has a frame for each time step
  --threads N     that share the work (default 1; the answer is the same)
  --report        print what each layer did

example: nmx-run digits.nmx --input images.npy --output scores.npy --threads 2 --report
)";

struct Arguments {
  std::string net, input, output;
  std::optional<std::size_t> time_steps;
  std::size_t threads = 1;
  bool frames = false, report = false;
};

std::size_t number_of(const std::string& option, const std::string& value) {
  const bool digits = value.find_first_not_of("0123456789") == value.npos;
  if (!digits || value.empty() || value.size() > 9 || std::stoul(value) == 0)
    fail(option, " must be a number of at least 1, not ", in_quotes(value));
  return std::stoul(value);
}

Arguments parse(int count, char** words) {
  Arguments a;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&]() -> std::string {
      if (++i == count) fail(word, " needs a value");
      return words[i];
    };
    if (word == "--input")
      a.input = value();
    else if (word == "--output")
      a.output = value();
    else if (word == "--time-steps")
      a.time_steps = number_of(word, value());
    else if (word == "--threads")
      a.threads = number_of(word, value());
    else if (word == "--frames")
      a.frames = true;
    else if (word == "--report")
      a.report = true;
    else if (word.empty() || word[0] == '-' || !a.net.empty())
      fail("unknown argument ", in_quotes(word), ": see nmx-run --help");
    else
      a.net = word;
  }
  if (a.net.empty() || a.input.empty() || a.output.empty())
    fail("a network, --input and --output are needed: see nmx-run --help");
  return a;
}

std::string written(const std::vector<std::size_t>& shape) {
  std::string all;
  for (const std::size_t n : shape) all += (all.empty() ? "" : ", ") + std::to_string(n);
  return "[" + all + "]";
}

// How the samples lie in the input.
struct Samples {
  std::size_t count = 1, steps = 0, elements = 0;
  bool is_batch = false;

  Samples(const Arguments& a, const Array& x, const Graph& graph) {
    const std::vector<std::size_t> frame{graph.input.channels, graph.input.height, graph.input.width};
    const std::size_t axes = a.frames ? 4 : 3, given = x.shape.size();
    is_batch = given == axes + 1;
    if ((given != axes && !is_batch) || !std::equal(frame.begin(), frame.end(), x.shape.end() - 3))
      fail(a.input, ": its shape ", written(x.shape), " is not ", a.frames ? "[T, " : "[", "C, H, W] or ",
           a.frames ? "[B, T, " : "[B, ", "C, H, W] with [C, H, W] = ", written(frame));
    if (is_batch) count = x.shape[0];
    steps = a.frames ? x.shape[given - 4] : a.time_steps.value_or(graph.time_steps);
    if (steps == 0) fail(a.input, ": it has no time steps");
    if (a.time_steps && *a.time_steps != steps)
      fail("--time-steps ", *a.time_steps, " is not the number of the frames, ", steps);
    elements = graph.input.elements() * (a.frames ? steps : 1);
  }
};

void add(const std::vector<LayerReport>& from, std::vector<LayerReport>& to) {
  for (std::size_t n = 0; n < from.size(); ++n) {
    to[n].inputs += from[n].inputs;
    to[n].active += from[n].active;
    to[n].operations += from[n].operations;
    to[n].dense += from[n].dense;
    to[n].seconds += from[n].seconds;
  }
}

void print(const Program& program, const std::vector<LayerReport>& layers) {
  std::printf("%10s  %8s  %14s  %14s  %10s  %-9s  %s\n", "ms", "activity", "operations", "dense", "weights",
              "op", "layer");
  using Count = unsigned long long;
  for (std::size_t n = 0; n < layers.size(); ++n) {
    const LayerReport& layer = layers[n];
    const Node& node = program.graph().nodes[n];
    const std::string activity =
        layer.inputs ? text(int(1000 * double(layer.active) / double(layer.inputs)) / 10.0, "%") : "";
    std::printf("%10.3f  %8s  %14llu  %14llu  %10zu  %-9s  %s\n", 1000 * layer.seconds, activity.c_str(),
                Count(layer.operations), Count(layer.dense), program.weights(n).bytes, node.op_name.c_str(),
                node.name.c_str());
  }
}

std::shared_ptr<const Program> opened(const std::string& path) {
  try {
    return Program::open(path);
  } catch (const Error& error) {
    fail(path, ": ", error.what());
  }
}

void run(const Arguments& a) {
  const auto program = opened(a.net);
  const Array x = read_npy(a.input);
  const Samples samples(a, x, program->graph());
  const std::size_t outputs = program->graph().outputs();
  Array y{{outputs}, std::vector<float>(samples.count * outputs)};
  if (samples.is_batch) y.shape = {samples.count, outputs};
  Session session(program, a.threads);
  std::vector<LayerReport> layers(program->graph().nodes.size());
  for (std::size_t i = 0; i < samples.count; ++i) {
    session.run(x.numbers.data() + i * samples.elements, samples.steps, !a.frames,
                y.numbers.data() + i * outputs);
    add(session.report(), layers);
  }
  write_npy(a.output, y);
  if (a.report) print(*program, layers);
}

}  // namespace
}  // namespace nmx

int main(int count, char** words) {
  for (int i = 1; i < count; ++i)
    if (std::string(words[i]) == "--help" || std::string(words[i]) == "-h") {
      std::fputs(nmx::kUsage, stdout);
      return EXIT_SUCCESS;
    }
  try {
    nmx::run(nmx::parse(count, words));
    return EXIT_SUCCESS;
  } catch (const std::bad_alloc&) {
    std::fputs("nmx-run: out of memory\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nmx-run: %s\n", error.what());
  }
  return 2;
}
