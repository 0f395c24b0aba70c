// How a run goes: which nodes are computed when, which of them in one, and where their values lie.
#pragma once

#include <cstddef>
#include <vector>

#include "graph.h"

namespace nmx {

// One thing to do. A convolution may be added to a sum at once, and the outcome go on into a neuron; and what it reads
// may be made as it is needed.
struct Task {
  static constexpr std::size_t kNone = ~std::size_t{0};

  std::size_t node;            // what is computed
  std::size_t before = kNone;  // the depthwise convolution that makes its inputs
  std::size_t value = node;    // whose value comes out: its own, or the sum's
  std::size_t base = kNone;    // the other addend of the sum
  std::size_t neuron = kNone;
  bool again = false;  // whether the task before was a convolution of the same shape on the same input
};

struct PlanOptions {
  std::size_t steps;       // that a pass holds at most
  bool is_static = false;  // the input is the same at every step
  bool keep_all = false;   // every value stays until the end of the pass: nothing fused, nothing reused
};

// Values lie in one arena. Those that a static input makes static are computed in the first pass of a run;
// what later passes read of them is kept until the end.
class Plan {
 public:
  Plan(const Graph& graph, const PlanOptions& options);

  const PlanOptions& options() const { return options_; }
  const std::vector<Task>& tasks() const { return tasks_; }
  bool is_static(std::size_t node) const { return static_[node]; }
  bool has_value(std::size_t node) const { return places_[node].holds; }
  std::size_t offset(std::size_t node) const { return places_[places_[node].home].offset; }
  std::size_t arena_bytes() const { return arena_bytes_; }

 private:
  struct Place {
    bool holds = true;        // false: the value is never in memory
    std::size_t home = 0;     // the node whose memory it has
    std::size_t first, last;  // the nodes during which it is in use, both included
    std::size_t bytes = 0, offset = 0;
  };

  void find_static();
  void find_readers();
  void schedule();
  Task task_of(std::size_t node) const;
  std::size_t depthwise_before(std::size_t node) const;
  std::size_t base_of(std::size_t conv, std::size_t sum) const;
  bool ends_in(std::size_t node, const Task& task) const;
  bool comes_again(const Task& task) const;
  void find_lives();
  void lay_out();

  const Graph& graph_;
  PlanOptions options_;
  std::vector<bool> static_;
  std::vector<std::vector<std::size_t>> readers_;  // of each node, ascending; the end reads what is read out
  std::vector<Task> tasks_;
  std::vector<Place> places_;
  std::size_t arena_bytes_ = 0;
};

}  // namespace nmx
