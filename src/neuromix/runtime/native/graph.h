// The graph of a network, as docs/nmx.md describes it. Reading it checks all of it, and touches no weight.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "file.h"
#include "value.h"

namespace nmx {

// What a node computes; strings name tensors of the file.
namespace op {

struct Input {};

struct Conv {
  ConvShape shape;
  std::string weight;
  std::optional<std::string> scale;  // int8 weights have one
  std::optional<std::string> bias;
};

struct Lif {
  std::string decay, gain, offset, threshold;
  Reset reset;
  float v_reset, v_init, fire_at;
  bool strict;
};

struct Levels {
  float gain;
  std::size_t levels;
};

struct Affine {
  std::string scale, shift;
};

struct Add {};

// The windows of a pooling layer, along height and along width.
struct Window {
  std::size_t kernel[2], stride[2], padding[2];
};

struct MaxPool {
  Window window;
};

struct AvgPool {
  Window window;
  bool count_padding;
};

struct Mean {};

struct Attend {
  std::size_t heads;
  float scale;
};

struct TokenSum {};

struct Gate {};

}  // namespace op

using Op = std::variant<op::Input, op::Conv, op::Lif, op::Levels, op::Affine, op::Add, op::MaxPool,
                        op::AvgPool, op::Mean, op::Attend, op::TokenSum, op::Gate>;

struct Node {
  std::string op_name, name;
  std::vector<std::size_t> inputs;  // indices of nodes before it
  Shape shape;
  Type type;
  Op op;
};

enum class Readout { mean, sum, last };

struct Graph {
  std::string name;
  Shape input;
  std::size_t time_steps;
  Readout readout;
  std::vector<std::string> classes;
  std::size_t output;
  std::vector<Node> nodes;

  std::size_t outputs() const { return nodes[output].shape.channels; }
};

const char* name_of(Type type);
const char* name_of(Readout readout);

// Throws Error with the index and the name of the node and the key at fault.
Graph read_graph(const File& file);

}  // namespace nmx
