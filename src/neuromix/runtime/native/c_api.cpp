#include "c_api.h"

#include <exception>
#include <string>

#include "session.h"

struct nmx_program {
  std::shared_ptr<const nmx::Program> program;
};

struct nmx_session {
  nmx::Session session;
};

namespace {

thread_local std::string last_error;

// What function() returns, or `otherwise` where it throws.
template <typename Result, typename Function>
Result guarded(Result otherwise, const Function& function) noexcept {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return otherwise;
}

}  // namespace

const char* nmx_last_error(void) { return last_error.c_str(); }

nmx_program* nmx_open(const char* path) {
  return guarded<nmx_program*>(nullptr, [&] { return new nmx_program{nmx::Program::open(path)}; });
}

nmx_program* nmx_open_memory(const void* data, size_t size) {
  return guarded<nmx_program*>(nullptr,
                               [&] { return new nmx_program{nmx::Program::from_memory(data, size)}; });
}

void nmx_close(nmx_program* program) { delete program; }

void nmx_input_shape(const nmx_program* program, size_t shape[3]) {
  const nmx::Shape& input = program->program->graph().input;
  shape[0] = input.channels, shape[1] = input.height, shape[2] = input.width;
}

size_t nmx_time_steps(const nmx_program* program) { return program->program->graph().time_steps; }

size_t nmx_outputs(const nmx_program* program) { return program->program->graph().outputs(); }

const char* nmx_class_name(const nmx_program* program, size_t output) {
  const auto& classes = program->program->graph().classes;
  return output < classes.size() ? classes[output].c_str() : nullptr;
}

nmx_session* nmx_session_new(const nmx_program* program, size_t threads) {
  return guarded<nmx_session*>(nullptr,
                               [&] { return new nmx_session{nmx::Session(program->program, threads)}; });
}

void nmx_session_free(nmx_session* session) { delete session; }

int nmx_run(nmx_session* session, const float* x, size_t time_steps, int is_static, float* readout) {
  return guarded(-1, [&] { return session->session.run(x, time_steps, is_static != 0, readout), 0; });
}

int nmx_step(nmx_session* session, const float* x, float* output) {
  return guarded(-1, [&] { return session->session.step(x, output), 0; });
}

int nmx_readout(nmx_session* session, float* readout) {
  return guarded(-1, [&] { return session->session.readout(readout), 0; });
}

void nmx_reset(nmx_session* session) { session->session.reset(); }
