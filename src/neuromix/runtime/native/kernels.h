// What the nodes compute, apart from convolutions, on values of some steps. Every kernel gives the same bits
// on any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "graph.h"
#include "value.h"

namespace nmx {

// Takes the state v [positions][C] through the steps; see ConvOutput.
void run_lif(const Value& x, const Neuron& neuron, float* v, const Value& y, std::size_t steps,
             std::size_t threads);

void run_levels(const Value& x, const op::Levels& op, const Value& y, std::size_t steps, std::size_t threads);

void run_affine(const Value& x, const float* scale, const float* shift, const Value& y, std::size_t steps,
                std::size_t threads);

// From left to right.
void run_add(const Value* inputs, std::size_t count, const Value& y, std::size_t steps, std::size_t threads);

void run_gate(const Value& gate, const Value& x, const Value& y, std::size_t steps, std::size_t threads);

void run_max_pool(const Value& x, const op::Window& w, const Value& y, std::size_t steps,
                  std::size_t threads);

void run_avg_pool(const Value& x, const op::AvgPool& op, const Value& y, std::size_t steps,
                  std::size_t threads);

void run_mean(const Value& x, const Value& y, std::size_t steps, std::size_t threads);

// Of a, or where there is a b of what both have.
void run_token_sum(const Value& a, const Value* b, const Value& y, std::size_t steps, std::size_t threads);

// Returns the synaptic operations done: additions of a spike's row.
std::uint64_t run_attend(const Value& q, const Value& k, const Value& v, const op::Attend& op, const Value& y,
                         std::size_t steps, void* scratch, std::size_t threads);
std::size_t attend_scratch_bytes(const Shape& shape, const op::Attend& op, std::size_t steps);
std::uint64_t attend_dense_operations(const Shape& shape, const op::Attend& op);

// How many elements of a binary or integer value are not 0.
std::uint64_t count_active(const Value& x, std::size_t steps, std::size_t threads);

// Between [T][C][H][W] float32, as users have it, and a value. Only real values are read from it.
void from_planes(const float* planes, const Value& to, std::size_t steps, std::size_t threads);
void to_planes(const Value& from, float* planes, std::size_t steps);

}  // namespace nmx
