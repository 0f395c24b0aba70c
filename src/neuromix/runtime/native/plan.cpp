#include "plan.h"

#include <algorithm>

namespace nmx {
namespace {

constexpr std::size_t kAlignment = 64;

bool is_conv(const Node& node) { return std::holds_alternative<op::Conv>(node.op); }

}  // namespace

Plan::Plan(const Graph& graph, const PlanOptions& options) : graph_(graph), options_(options) {
  find_static();
  find_readers();
  places_.resize(graph.nodes.size());
  schedule();
  find_lives();
  lay_out();
}

void Plan::find_static() {
  for (const Node& node : graph_.nodes) {
    bool is_static = options_.is_static && !std::holds_alternative<op::Lif>(node.op);
    for (const std::size_t i : node.inputs) is_static = is_static && static_[i];
    static_.push_back(is_static);
  }
}

void Plan::find_readers() {
  const std::size_t end = graph_.nodes.size();
  readers_.resize(end);
  for (std::size_t n = 0; n < end; ++n)
    for (const std::size_t i : graph_.nodes[n].inputs) readers_[i].push_back(n);
  readers_[graph_.output].push_back(end);
  // What is static is read again in each pass, and what nobody reads lives while it is computed.
  for (std::size_t n = 0; n < end; ++n) {
    const auto is_dynamic = [&](std::size_t reader) { return reader < end && !static_[reader]; };
    if (static_[n] && std::any_of(readers_[n].begin(), readers_[n].end(), is_dynamic))
      readers_[n].push_back(end);
    if (readers_[n].empty()) readers_[n].push_back(n);
  }
}

// The other addend of a sum that a convolution can be added to at once: a real value that is complete before it.
std::size_t Plan::base_of(std::size_t conv, std::size_t sum) const {
  const Node& add = graph_.nodes[sum];
  if (!std::holds_alternative<op::Add>(add.op) || add.inputs.size() != 2) return Task::kNone;
  const std::size_t other = add.inputs[0] == conv ? add.inputs[1] : add.inputs[0];
  const bool fits = other < conv && graph_.nodes[other].type == Type::real && static_[sum] == static_[conv];
  return fits ? other : Task::kNone;
}

// The depthwise convolution of spikes that a pointwise one alone reads.
std::size_t Plan::depthwise_before(std::size_t node) const {
  const auto* conv = std::get_if<op::Conv>(&graph_.nodes[node].op);
  if (!conv || !conv->shape.is_pointwise() || conv->shape.is_depthwise() || options_.keep_all) return Task::kNone;
  const std::size_t input = graph_.nodes[node].inputs[0];
  const auto* before = std::get_if<op::Conv>(&graph_.nodes[input].op);
  if (!before || !before->shape.is_depthwise() || readers_[input].size() > 1) return Task::kNone;
  return graph_.nodes[graph_.nodes[input].inputs[0]].type == Type::binary ? input : Task::kNone;
}

// A convolution with what can be done just before and after it.
Task Plan::task_of(std::size_t node) const {
  Task task{node, depthwise_before(node)};
  if (!is_conv(graph_.nodes[node]) || options_.keep_all) return task;
  if (readers_[node].size() == 1 && readers_[node][0] < graph_.nodes.size()) {
    task.base = base_of(node, readers_[node][0]);
    if (task.base != Task::kNone) task.value = readers_[node][0];
  }
  for (const std::size_t reader : readers_[task.value]) {
    if (reader == graph_.nodes.size() || static_[node]) continue;
    const auto* lif = std::get_if<op::Lif>(&graph_.nodes[reader].op);
    if (lif && lif->reset != Reset::none) {
      task.neuron = reader;
      break;
    }
  }
  return task;
}

// Whether a value is nobody's business once a sum has it.
bool Plan::ends_in(std::size_t node, const Task& task) const {
  return static_[node] == static_[task.value] &&
         std::all_of(readers_[node].begin(), readers_[node].end(),
                     [&](std::size_t reader) { return reader < task.node || reader == task.value; });
}

// Whether the last task has looked for the spikes that this one needs.
bool Plan::comes_again(const Task& task) const {
  if (tasks_.empty() || task.before != Task::kNone || tasks_.back().before != Task::kNone) return false;
  const Node &node = graph_.nodes[task.node], &last = graph_.nodes[tasks_.back().node];
  const auto *conv = std::get_if<op::Conv>(&node.op), *other = std::get_if<op::Conv>(&last.op);
  return conv && other && node.inputs == last.inputs && conv->shape == other->shape &&
         conv->scale.has_value() == other->scale.has_value();
}

void Plan::schedule() {
  const std::size_t end = graph_.nodes.size();
  std::vector<bool> done(end);
  for (std::size_t n = 0; n < end; ++n) places_[n].home = n;
  for (std::size_t n = 1; n < end; ++n) {
    const std::size_t reader = readers_[n][0];
    if (reader < end && depthwise_before(reader) == n) {  // made for its reader
      places_[n].holds = false;
      continue;
    }
    if (done[n]) continue;
    Task task = task_of(n);
    task.again = comes_again(task);
    if (task.value != n) {
      done[task.value] = true;
      places_[n].holds = false;
      if (ends_in(task.base, task)) places_[task.value].home = places_[task.base].home;
    }
    if (task.neuron != Task::kNone) {
      done[task.neuron] = true;
      places_[task.value].holds = readers_[task.value].size() > 1;
    }
    tasks_.push_back(task);
  }
}

void Plan::find_lives() {
  const std::size_t end = graph_.nodes.size();
  for (std::size_t n = 0; n < end; ++n) {
    Place& place = places_[n];
    const bool again = options_.keep_all || (static_[n] && readers_[n].back() == end);
    place.first = again ? 0 : n;
    place.last = again ? end : readers_[n].back();
    const Shape& shape = graph_.nodes[n].shape;
    const std::size_t rows = checked_product(shape.positions(), static_[n] ? 1 : options_.steps);
    place.bytes = checked_product(rows, row_bytes(graph_.nodes[n].type, shape.channels));
    place.bytes = checked_sum(place.bytes, kAlignment - 1) / kAlignment * kAlignment;
  }
  for (const Task& task : tasks_) {
    for (const std::size_t n : {task.value, task.neuron})
      if (n != Task::kNone) places_[n].first = std::min(places_[n].first, task.node);
    if (task.before != Task::kNone) {
      Place& input = places_[graph_.nodes[task.before].inputs[0]];
      input.last = std::max(input.last, task.node);
    }
  }
  for (const Place& place : places_) {
    Place& home = places_[place.home];
    home.first = std::min(home.first, place.first);
    home.last = std::max(home.last, place.last);
  }
}

// The largest first, each at the lowest place that is free for as long as it lives.
void Plan::lay_out() {
  std::vector<Place*> order, placed;
  for (std::size_t n = 0; n < places_.size(); ++n)
    if (places_[n].holds && places_[n].home == n) order.push_back(&places_[n]);
  std::stable_sort(order.begin(), order.end(),
                   [](const Place* a, const Place* b) { return a->bytes > b->bytes; });
  for (Place* place : order) {
    for (const Place* other : placed) {  // in the order of their offsets
      if (other->last < place->first || other->first > place->last) continue;
      if (place->offset + place->bytes <= other->offset) break;
      place->offset = std::max(place->offset, other->offset + other->bytes);
    }
    arena_bytes_ = std::max(arena_bytes_, checked_sum(place->offset, place->bytes));
    const auto after = [](std::size_t offset, const Place* p) { return offset < p->offset; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), place->offset, after), place);
  }
}

}  // namespace nmx
