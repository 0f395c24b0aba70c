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

bool Plan::fires_into(std::size_t conv, std::size_t reader) const {
  const auto* lif = std::get_if<op::Lif>(&graph_.nodes[reader].op);
  return lif && lif->reset != Reset::none && !static_[conv];
}

// The other addend must be a real value, complete before the convolution, and nobody's business from then on.
bool Plan::adds_into(std::size_t conv, std::size_t reader) const {
  const Node& add = graph_.nodes[reader];
  if (!std::holds_alternative<op::Add>(add.op) || add.inputs.size() != 2) return false;
  const std::size_t other = add.inputs[0] == conv ? add.inputs[1] : add.inputs[0];
  if (other >= conv || graph_.nodes[other].type != Type::real || static_[other] != static_[conv])
    return false;
  return std::all_of(readers_[other].begin(), readers_[other].end(),
                     [&](std::size_t r) { return r < conv || r == reader; });
}

void Plan::schedule() {
  const std::size_t end = graph_.nodes.size();
  std::vector<bool> done(end);
  for (std::size_t n = 0; n < end; ++n) places_[n].home = n;
  for (std::size_t n = 1; n < end; ++n) {
    if (done[n]) continue;
    Task task{n, n};
    const std::size_t reader = readers_[n].size() == 1 ? readers_[n][0] : end;
    if (is_conv(graph_.nodes[n]) && reader < end && !options_.keep_all) {
      if (fires_into(n, reader)) task = {n, reader, Task::Kind::fires};
      if (adds_into(n, reader)) task = {n, reader, Task::Kind::adds};
    }
    if (task.into != n) {
      done[task.into] = true;
      places_[n].holds = false;
    }
    if (task.kind == Task::Kind::adds) {
      const auto& addends = graph_.nodes[reader].inputs;
      places_[reader].home = places_[addends[0] == n ? addends[1] : addends[0]].home;
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
  for (const Task& task : tasks_) places_[task.into].first = std::min(places_[task.into].first, task.node);
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
