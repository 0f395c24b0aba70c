#include "session.h"

#include <algorithm>
#include <chrono>
#include <new>

#include "kernels.h"

namespace nmx {
namespace {

// Steps that one pass through the network takes at most: what a run of many steps needs in memory does not
// grow with them.
constexpr std::size_t kPassSteps = 16;
constexpr std::size_t kThreadsMost = 256;

std::size_t valid_threads(std::size_t threads) {
  if (threads < 1 || threads > kThreadsMost) fail("threads must be 1 to ", kThreadsMost, ", not ", threads);
  return threads;
}

}  // namespace

Session::Session(std::shared_ptr<const Program> program, std::size_t threads, bool keep_all)
    : program_(std::move(program)), threads_(valid_threads(threads)), keep_all_(keep_all) {
  const Graph& graph = program_->graph();
  std::size_t most_inputs = 0;
  states_.resize(graph.nodes.size());
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    most_inputs = std::max(most_inputs, node.inputs.size());
  }
  inputs_.reserve(most_inputs);
  sum_.resize(graph.outputs());
  last_.resize(graph.outputs());
  report_.resize(graph.nodes.size());
  reset();
}

void Session::reset() {
  std::fill(sum_.begin(), sum_.end(), 0.0f);
  std::fill(report_.begin(), report_.end(), LayerReport{});
  taken_ = 0;
  has_run_ = false;
}

// Of neurons at rest. Where each keeps its own, it may be the first time.
void Session::begin_states(bool shared) {
  shares_state_ = shared;
  const auto& nodes = program_->graph().nodes;
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    const auto* lif = std::get_if<op::Lif>(&nodes[n].op);
    if (!lif) continue;
    const std::size_t size = nodes[n].shape.elements();
    if (!shared)
      states_[n].assign(size, lif->v_init);
    else if (needs_state(*lif))
      shared_state_.resize(std::max(shared_state_.size(), size));
  }
}

// Whether the state of neurons goes through memory in a run of one pass: where not all steps are taken at once.
bool Session::needs_state(const op::Lif& lif) const {
  return plan_->options().steps > kStepsAtOnce || lif.reset == Reset::none;
}

float* Session::state_of(std::size_t n) {
  if (!shares_state_) return states_[n].data();
  const Node& node = program_->graph().nodes[n];
  const auto& lif = std::get<op::Lif>(node.op);
  if (!needs_state(lif)) return nullptr;
  std::fill_n(shared_state_.data(), node.shape.elements(), lif.v_init);
  return shared_state_.data();
}

void Session::run(const float* x, std::size_t steps, bool is_static, float* to) {
  if (steps < 1) fail("a run takes at least one time step");
  reset();
  has_run_ = true;
  advance(x, steps, is_static);
  readout(to);
}

void Session::step(const float* x, float* output) {
  if (has_run_) reset();
  advance(x, 1, false);
  std::copy(last_.begin(), last_.end(), output);
}

void Session::readout(float* to) const {
  if (taken_ == 0) fail("there is nothing to read out before the first step");
  const Readout readout = program_->graph().readout;
  const std::vector<float>& from = readout == Readout::last ? last_ : sum_;
  const float divisor = readout == Readout::mean ? float(taken_) : 1.0f;
  for (std::size_t k = 0; k < from.size(); ++k) to[k] = from[k] / divisor;
}

void Session::advance(const float* x, std::size_t steps, bool is_static) {
  const std::size_t pass = keep_all_ ? steps : std::min(steps, kPassSteps);
  try {
    prepare(pass, is_static);
    if (taken_ == 0) begin_states(has_run_ && pass == steps);
  } catch (const std::bad_alloc&) {
    plan_ = nullptr;
    fail("there is not enough memory for ", pass, " time steps of the network");
  }
  const std::size_t frame = is_static ? 0 : program_->graph().input.elements();
  for (std::size_t first = 0; first < steps; first += pass)
    run_pass(x + first * frame, std::min(pass, steps - first), first == 0);
}

// The only place that allocates, and only where a run needs more than those before.
void Session::prepare(std::size_t steps, bool is_static) {
  std::optional<Plan>& plan = plans_[is_static];
  plan_ = nullptr;
  if (!plan || plan->options().steps < steps)
    plan.emplace(program_->graph(), PlanOptions{steps, is_static, keep_all_});
  arena_at_ = arena_.of_size(plan->arena_bytes());
  std::size_t scratch = 0;
  for (const Task& task : plan->tasks())
    scratch = std::max(scratch, scratch_bytes(task, plan->is_static(task.node) ? 1 : steps));
  scratch_at_ = scratch_.of_size(scratch);
  plan_ = &*plan;
}

std::size_t Session::scratch_bytes(const Task& task, std::size_t steps) const {
  const Node& node = program_->graph().nodes[task.node];
  if (std::holds_alternative<op::Conv>(node.op)) {
    const Conv* const before = task.before == Task::kNone ? nullptr : program_->weights(task.before).conv.get();
    return program_->weights(task.node).conv->scratch_bytes(threads_, before);
  }
  if (const auto* attend = std::get_if<op::Attend>(&node.op)) return attend_scratch_bytes(node.shape, *attend, steps);
  return 0;
}

void Session::run_pass(const float* x, std::size_t steps, bool is_first) {
  steps_ = steps;
  if (is_first || !plan_->is_static(0))
    from_planes(x, value_of(0), plan_->is_static(0) ? 1 : steps, threads_);
  for (const Task& task : plan_->tasks())
    if (!plan_->is_static(task.node))
      run_task(task, steps);
    else if (is_first)
      run_task(task, 1);
  read_outputs(steps);
}

void Session::run_task(const Task& task, std::size_t steps) {
  using Clock = std::chrono::steady_clock;
  const Node& node = program_->graph().nodes[task.node];
  inputs_.clear();
  for (const std::size_t i : node.inputs) inputs_.push_back(value_of(i));
  const auto start = Clock::now();
  if (const auto* conv = std::get_if<op::Conv>(&node.op))
    run_conv(*conv, task, steps);
  else
    run_other(task.node, steps);
  report_[task.node].seconds += std::chrono::duration<double>(Clock::now() - start).count();
}

void Session::run_conv(const op::Conv& conv, const Task& task, std::size_t steps) {
  ConvOutput output;
  if (task.base != Task::kNone) {
    const Value base = value_of(task.base);
    output.base = base.row_of<float>(0, 0);
    output.base_is_static = base.is_static;
  }
  if (plan_->has_value(task.value)) output.real = value_of(task.value).row_of<float>(0, 0);
  if (task.neuron != Task::kNone) {
    output.neuron = &program_->weights(task.neuron).neuron;
    output.v = state_of(task.neuron);
    output.bits = value_of(task.neuron).row_of<std::uint64_t>(0, 0);
  }
  const Conv* const before = task.before == Task::kNone ? nullptr : program_->weights(task.before).conv.get();
  const std::size_t first = before ? task.before : task.node;
  const Value x = value_of(program_->graph().nodes[first].inputs[0]);
  report_[task.node].operations +=
      program_->weights(task.node).conv->run(x.data, steps, output, scratch_at_, threads_, before, task.again);
  report_[task.node].dense += steps * dense_operations(conv.shape);
  if (before) {
    report_[first].operations += before->seen_spikes(x.data, steps);
    report_[first].dense += steps * dense_operations(std::get<op::Conv>(program_->graph().nodes[first].op).shape);
  }
  if (x.type == Type::real) return;
  report_[first].inputs += steps * x.shape.elements();
  report_[first].active += count_active(x, steps, threads_);
}

void Session::read_outputs(std::size_t steps) {
  const Value y = value_of(program_->graph().output);
  for (std::size_t t = 0; t < steps; ++t) {
    const float* output = y.row_of<const float>(t, 0);
    for (std::size_t k = 0; k < sum_.size(); ++k) sum_[k] += output[k];
    std::copy(output, output + last_.size(), last_.begin());
  }
  taken_ += steps;
}

Value Session::value_of(std::size_t n) const {
  const Node& node = program_->graph().nodes[n];
  return {node.type, node.shape, arena_at_ + plan_->offset(n), plan_->is_static(n)};
}

std::size_t Session::value_steps(std::size_t node) const {
  if (node >= report_.size()) fail("there are ", report_.size(), " nodes, and none is number ", node);
  if (!keep_all_) fail("values are kept by a session with keep_all alone");
  if (!plan_) fail("there are no values before the first step");
  return plan_->is_static(node) ? 1 : steps_;
}

void Session::value(std::size_t node, float* to) const { to_planes(value_of(node), to, value_steps(node)); }

// Whatever is not a convolution.
void Session::run_other(std::size_t n, std::size_t steps) {
  struct Visitor {
    Session& s;
    std::size_t n, steps;
    const std::vector<Value>& in = s.inputs_;
    const Value y = s.value_of(n);
    const Weights& weights = s.program_->weights(n);
    const std::size_t threads = s.threads_;

    void operator()(const op::Input&) const {}
    void operator()(const op::Conv&) const {}
    void operator()(const op::Lif&) const {
      run_lif(in[0], weights.neuron, s.state_of(n), y, steps, threads);
    }
    void operator()(const op::Levels& op) const { run_levels(in[0], op, y, steps, threads); }
    void operator()(const op::Affine&) const {
      const std::size_t channels = y.shape.channels;
      run_affine(in[0], weights.row(0, channels), weights.row(1, channels), y, steps, threads);
    }
    void operator()(const op::Add&) const { run_add(in.data(), in.size(), y, steps, threads); }
    void operator()(const op::MaxPool& op) const { run_max_pool(in[0], op.window, y, steps, threads); }
    void operator()(const op::AvgPool& op) const { run_avg_pool(in[0], op, y, steps, threads); }
    void operator()(const op::Mean&) const { run_mean(in[0], y, steps, threads); }
    void operator()(const op::Attend& op) const {
      LayerReport& report = s.report_[n];
      report.operations += run_attend(in[0], in[1], in[2], op, y, steps, s.scratch_at_, threads);
      report.dense += steps * attend_dense_operations(y.shape, op);
    }
    void operator()(const op::TokenSum&) const {
      run_token_sum(in[0], in.size() > 1 ? &in[1] : nullptr, y, steps, threads);
    }
    void operator()(const op::Gate&) const { run_gate(in[0], in[1], y, steps, threads); }
  };
  std::visit(Visitor{*this, n, steps}, program_->graph().nodes[n].op);
}

}  // namespace nmx
