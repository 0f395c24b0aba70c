/* The engine for programs in C and whatever calls C. Functions that return a pointer or an int give NULL or
   -1 for a mistake, which nmx_last_error then tells. A program may be used by several threads, a session by
   one at a time. */
#ifndef NMX_C_API_H
#define NMX_C_API_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nmx_program nmx_program;
typedef struct nmx_session nmx_session;

/* The mistake of this thread's last call that failed. */
const char* nmx_last_error(void);

nmx_program* nmx_open(const char* path);
/* The bytes are needed only during the call. */
nmx_program* nmx_open_memory(const void* data, size_t size);
/* Sessions may outlive the program that they were made of. */
void nmx_close(nmx_program* program);

void nmx_input_shape(const nmx_program* program, size_t shape[3]); /* channels, height, width */
size_t nmx_time_steps(const nmx_program* program);                 /* that it was trained with */
size_t nmx_outputs(const nmx_program* program);
const char* nmx_class_name(const nmx_program* program, size_t output); /* NULL where it has none */

nmx_session* nmx_session_new(const nmx_program* program, size_t threads);
void nmx_session_free(nmx_session* session);

/* From the initial state, `time_steps` steps on x: one [C][H][W] if `is_static`, else one for each. */
int nmx_run(nmx_session* session, const float* x, size_t time_steps, int is_static, float* readout);
/* One step more; `output` is of this step alone. */
int nmx_step(nmx_session* session, const float* x, float* output);
/* What is read out of the steps since the last reset. */
int nmx_readout(nmx_session* session, float* readout);
void nmx_reset(nmx_session* session);

#ifdef __cplusplus
}
#endif

#endif
