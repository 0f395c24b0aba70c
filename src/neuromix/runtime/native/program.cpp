#include "program.h"

#include <cmath>
#include <initializer_list>
#include <limits>
#include <new>

namespace nmx {
namespace {

// Reads the weights of a node; most kinds have none.
struct WeightReader {
  const File& file;
  const Node& node;
  Weights weights;

  template <typename Other>
  void operator()(const Other&) {}

  void operator()(const op::Conv& conv) {
    std::vector<float> real, scale, bias;
    std::vector<std::int8_t> small;
    conv.scale ? void(small = file.bytes(conv.weight)) : void(real = file.floats(conv.weight));
    if (conv.scale) scale = file.finite_floats(*conv.scale);
    if (conv.bias) bias = file.finite_floats(*conv.bias);
    weights.bytes = (real.size() + scale.size() + bias.size()) * sizeof(float) + small.size();
    const auto data = [](const auto& numbers) { return numbers.empty() ? nullptr : numbers.data(); };
    weights.conv = std::make_unique<Conv>(conv.shape, input_type,
                                          ConvWeights{data(real), data(small), data(scale), data(bias)});
  }

  void operator()(const op::Lif& lif) {
    read_rows({&lif.decay, &lif.gain, &lif.offset, &lif.threshold});
    const std::size_t channels = node.shape.channels, row = 64 * words(channels);
    weights.numbers.resize(5 * row);
    for (std::size_t c = 0; c < channels; ++c) {
      const float fire = lif.fire_at * weights.numbers[3 * row + c];
      // Above a number is the same as at least the next one.
      weights.numbers[4 * row + c] =
          lif.strict ? std::nextafter(fire, std::numeric_limits<float>::infinity()) : fire;
    }
    const auto at = [&](std::size_t i) { return weights.row(i, channels); };
    weights.neuron = {at(0), at(1), at(2), at(3), at(4), lif.reset, lif.v_reset, lif.v_init};
  }

  void operator()(const op::Affine& affine) { read_rows({&affine.scale, &affine.shift}); }

  void read_rows(std::initializer_list<const std::string*> names) {
    for (const std::string* name : names) {
      const std::vector<float> row = file.finite_floats(*name);
      weights.numbers.insert(weights.numbers.end(), row.begin(), row.end());
      weights.numbers.resize(64 * words(weights.numbers.size()));
      weights.bytes += row.size() * sizeof(float);
    }
  }

  Type input_type = Type::real;
};

}  // namespace

Program::Program(const File& file) : graph_(read_graph(file)) {
  for (const Node& node : graph_.nodes) {
    WeightReader reader{file, node, {}};
    if (!node.inputs.empty()) reader.input_type = graph_.nodes[node.inputs[0]].type;
    std::visit(reader, node.op);
    weights_.push_back(std::move(reader.weights));
  }
}

std::shared_ptr<const Program> Program::open(const std::string& path) {
  try {
    return std::make_shared<const Program>(File(path));
  } catch (const std::bad_alloc&) {
    fail("there is not enough memory for the network");
  }
}

std::shared_ptr<const Program> Program::from_memory(const void* data, std::size_t size) {
  try {
    return std::make_shared<const Program>(File(data, size));
  } catch (const std::bad_alloc&) {
    fail("there is not enough memory for the network");
  }
}

}  // namespace nmx
