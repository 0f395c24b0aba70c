// A network at work: one user's state, memory and figures. A session is for one thread at a time; any number
// of them share a Program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ops/native/buffer.h"
#include "plan.h"
#include "program.h"

namespace nmx {

// What a node did since the last reset. The convolution has the time of the neuron or sum that goes with it.
struct LayerReport {
  std::uint64_t inputs = 0, active = 0;  // of a convolution of spikes or integers: elements, and those not 0
  std::uint64_t operations = 0;          // synaptic operations done
  std::uint64_t dense = 0;               // those of the same steps where nothing is skipped
  double seconds = 0;
};

class Session {
 public:
  // With keep_all the values of all nodes can be looked at; a run then takes more time and memory.
  explicit Session(std::shared_ptr<const Program> program, std::size_t threads = 1, bool keep_all = false);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Program& program() const { return *program_; }

  // From the initial state, `steps` steps on x: [C][H][W] for all of them where it is static, else one each.
  // Writes what is read out, [K]. The state does not outlive the run: the next step is a first step.
  void run(const float* x, std::size_t steps, bool is_static, float* readout);

  // One step more. Writes the output of this step, [K].
  void step(const float* x, float* output);

  // The outputs since the last reset, as they are read out: there must be one.
  void readout(float* to) const;

  void reset();

  const std::vector<LayerReport>& report() const { return report_; }

  // The value of a node in the last run or step, [value_steps][C][H][W] as float32. Needs keep_all.
  std::size_t value_steps(std::size_t node) const;
  void value(std::size_t node, float* to) const;

 private:
  void advance(const float* x, std::size_t steps, bool is_static);
  void prepare(std::size_t steps, bool is_static);
  void begin_states(bool shared);
  bool needs_state(const op::Lif& lif) const;
  float* state_of(std::size_t lif);
  std::size_t scratch_bytes(const Task& task, std::size_t steps) const;
  void run_pass(const float* x, std::size_t steps, bool is_first);
  void run_task(const Task& task, std::size_t steps);
  void run_conv(const op::Conv& conv, const Task& task, std::size_t steps);
  void run_other(std::size_t node, std::size_t steps);
  void read_outputs(std::size_t steps);
  Value value_of(std::size_t node) const;

  const std::shared_ptr<const Program> program_;
  const std::size_t threads_;
  const bool keep_all_;
  std::optional<Plan> plans_[2];  // for frames that change, and for one that does not
  const Plan* plan_ = nullptr;    // of the last run or step
  std::size_t steps_ = 0;         // of its last pass
  neuromix::Buffer<std::byte> arena_, scratch_;
  std::byte *arena_at_ = nullptr, *scratch_at_ = nullptr;
  // Of each lif, [positions][C], while steps follow one another; in a run of one pass the neurons need none, or take
  // turns with one memory, as none is needed again.
  std::vector<std::vector<float>> states_;
  std::vector<float> shared_state_;
  bool shares_state_ = false, has_run_ = false;
  std::vector<Value> inputs_;               // of the node that is being computed
  std::vector<float> sum_, last_;           // outputs since the last reset
  std::size_t taken_ = 0;                   // steps since then
  std::vector<LayerReport> report_;
};

}  // namespace nmx
