// A network ready to run: its graph, and its weights as the kernels want them. Sessions share it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "conv.h"
#include "graph.h"

namespace nmx {

// What a node computes with, as far as it has anything.
struct Weights {
  std::unique_ptr<Conv> conv;
  // Of a lif: decay, gain, offset, threshold, level. Of an affine: scale, shift. Each is padded to whole
  // words of channels.
  std::vector<float> numbers;
  Neuron neuron{};
  std::size_t bytes = 0;  // in the file

  const float* row(std::size_t i, std::size_t channels) const {
    return numbers.data() + i * 64 * words(channels);
  }
};

class Program {
 public:
  // Both throw Error.
  static std::shared_ptr<const Program> open(const std::string& path);
  static std::shared_ptr<const Program> from_memory(const void* data, std::size_t size);

  explicit Program(const File& file);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const Graph& graph() const { return graph_; }
  const Weights& weights(std::size_t node) const { return weights_[node]; }

 private:
  Graph graph_;
  std::vector<Weights> weights_;
};

}  // namespace nmx
