// Attention of spikes, head by head: q (k^T v). Both products are counts, so they are exact in integers.
#include <atomic>

#include "kernels.h"
#include "rows.h"

namespace nmx {
namespace {

// Counts that are added up at once.
typedef std::int32_t Block __attribute__((vector_size(64)));
constexpr std::size_t kBlock = sizeof(Block) / sizeof(std::int32_t);

// How the scratch memory of one step is laid out.
struct Layout {
  std::size_t channels, positions, head, row, token_words;  // a row of counts is filled up to whole blocks

  Layout(const Shape& shape, std::size_t heads)
      : channels(shape.channels),
        positions(shape.positions()),
        head(channels / heads),
        row((head + kBlock - 1) / kBlock * kBlock),
        token_words(words(positions)) {}

  std::size_t plane_words() const { return 64 * words(channels) * token_words; }  // of k, or of v
  std::size_t sums() const { return channels * row; }                             // k^T v of all heads
  std::size_t bytes() const {
    const std::size_t counts = checked_sum(checked_product(channels, row), channels);
    return checked_sum(checked_product(plane_words(), 16), (checked_product(counts, 4) + 63) / 64 * 64);
  }
};

// One step: k and v with the tokens of a channel side by side, the products of k and v, how many in a row of them are
// not 0.
struct Step {
  std::uint64_t *k, *v;
  std::int32_t *counts, *nonzero;

  Step(const Layout& layout, void* scratch, std::size_t t) {
    std::byte* at = static_cast<std::byte*>(scratch) + t * layout.bytes();
    k = reinterpret_cast<std::uint64_t*>(at);
    v = k + layout.plane_words();
    counts = reinterpret_cast<std::int32_t*>(v + layout.plane_words());
    nonzero = counts + layout.sums();
  }
};

// Mirrors 64 words of 64 bits at their diagonal.
NEUROMIX_INLINE void transpose(std::uint64_t* a) {
  std::uint64_t mask = 0x00000000FFFFFFFF;
  for (std::size_t size = 32; size > 0; size /= 2, mask ^= mask << size)
    for (std::size_t i = 0; i < 64; i = (i + size + 1) & ~size) {
      const std::uint64_t swapped = ((a[i] >> size) ^ a[i + size]) & mask;
      a[i] ^= swapped << size;
      a[i + size] ^= swapped;
    }
}

// Channels 64 w .. 64 w + 63 of all tokens of a step.
NEUROMIX_CLONES void transpose_word(const Value& x, std::size_t t, std::size_t w, const Layout& layout,
                                    std::uint64_t* to) {
  std::uint64_t block[64];
  for (std::size_t n = 0; n < layout.token_words; ++n) {
    for (std::size_t i = 0; i < 64; ++i)
      block[i] = 64 * n + i < layout.positions ? x.row_of<const std::uint64_t>(t, 64 * n + i)[w] : 0;
    transpose(block);
    for (std::size_t i = 0; i < 64; ++i) to[(64 * w + i) * layout.token_words + n] = block[i];
  }
}

// k^T v of one head; returns the sum of the counts.
NEUROMIX_CLONES std::uint64_t count_pairs(const Step& step, const Layout& layout, std::size_t first) {
  std::uint64_t all = 0;
  for (std::size_t i = first; i < first + layout.head; ++i) {
    const std::uint64_t* k = step.k + i * layout.token_words;
    std::int32_t *counts = step.counts + i * layout.row, nonzero = 0;
    for (std::size_t j = 0; j < layout.head; ++j) {
      const std::uint64_t* v = step.v + (first + j) * layout.token_words;
      std::int32_t count = 0;
      for (std::size_t n = 0; n < layout.token_words; ++n) count += __builtin_popcountll(k[n] & v[n]);
      counts[j] = count;
      nonzero += count != 0;
      all += std::uint64_t(count);
    }
    std::fill(counts + layout.head, counts + layout.row, 0);
    step.nonzero[i] = nonzero;
  }
  return all;
}

// Some blocks, from one on, of the rows of counts of those channels of a head that have a spike: y gets their sums.
// Returns how many of the counts in the rows are not 0.
template <std::size_t blocks>
NEUROMIX_INLINE std::uint64_t add_blocks(const Step& step, const Layout& layout, std::size_t first, std::size_t block,
                                         float scale, const std::uint64_t* q, float* y) {
  const std::size_t last = first + layout.head;
  Block sum[blocks] = {}, row;
  std::uint64_t added = 0;
  for (std::size_t w = first / 64; w * 64 < last; ++w) {
    std::uint64_t bits = q[w];
    if (w * 64 < first) bits &= ~std::uint64_t{0} << (first - w * 64);
    if (last - w * 64 < 64) bits &= (std::uint64_t{1} << (last - w * 64)) - 1;
    for (; bits; bits &= bits - 1) {
      const std::size_t channel = w * 64 + std::size_t(__builtin_ctzll(bits));
      const std::int32_t* const counts = step.counts + channel * layout.row + block * kBlock;
      added += std::uint64_t(step.nonzero[channel]);
      for (std::size_t b = 0; b < blocks; ++b) {
        std::memcpy(&row, counts + b * kBlock, sizeof row);
        sum[b] += row;
      }
    }
  }
  for (std::size_t b = 0; b < blocks; ++b) {
    std::int32_t sums[kBlock];
    std::memcpy(sums, &sum[b], sizeof sums);
    const std::size_t at = (block + b) * kBlock, some = std::min(kBlock, layout.head - at);
    for (std::size_t k = 0; k < some; ++k) y[first + at + k] = scale * float(sums[k]);
  }
  return added;
}

// A head of one token: for each spike of q the row of counts of its channel. Returns how many of these are not 0.
NEUROMIX_CLONES std::uint64_t add_rows(const Step& step, const Layout& layout, std::size_t first, float scale,
                                       const std::uint64_t* q, float* y) {
  constexpr std::size_t kMost = 4;
  const std::size_t blocks = layout.row / kBlock;
  std::size_t block = 0;
  for (; block + kMost < blocks; block += kMost) add_blocks<kMost>(step, layout, first, block, scale, q, y);
  if (blocks - block == 1) return add_blocks<1>(step, layout, first, block, scale, q, y);
  if (blocks - block == 2) return add_blocks<2>(step, layout, first, block, scale, q, y);
  if (blocks - block == 3) return add_blocks<3>(step, layout, first, block, scale, q, y);
  return add_blocks<kMost>(step, layout, first, block, scale, q, y);
}

// One head, whose channels begin at `first`. Returns the additions done.
std::uint64_t run_head(const Step& step, const Layout& layout, std::size_t first, float scale, const Value& q,
                       const Value& y, std::size_t t) {
  std::uint64_t done = count_pairs(step, layout, first);
  for (std::size_t p = 0; p < layout.positions; ++p)
    done += add_rows(step, layout, first, scale, q.row_of<const std::uint64_t>(t, p), y.row_of<float>(t, p));
  return done;
}

}  // namespace

std::uint64_t run_attend(const Value& q, const Value& k, const Value& v, const op::Attend& op, const Value& y,
                         std::size_t steps, void* scratch, std::size_t threads) {
  const Layout layout(q.shape, op.heads);
  const std::size_t columns = words(layout.channels);
  parallel_items(steps * columns, 128 * layout.positions, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / columns;
      const Step step(layout, scratch, t);
      transpose_word(k, t, i % columns, layout, step.k);
      transpose_word(v, t, i % columns, layout, step.v);
    }
  });
  std::atomic<std::uint64_t> operations{0};
  const std::size_t elements = layout.head * layout.positions;
  parallel_items(steps * op.heads, elements, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / op.heads, first = i % op.heads * layout.head;
      operations += run_head(Step(layout, scratch, t), layout, first, op.scale, q, y, t);
    }
  });
  return operations;
}

std::size_t attend_scratch_bytes(const Shape& shape, const op::Attend& op, std::size_t steps) {
  return checked_product(steps, Layout(shape, op.heads).bytes());
}

std::uint64_t attend_dense_operations(const Shape& shape, const op::Attend& op) {
  return 2 * std::uint64_t(shape.elements()) * (shape.channels / op.heads);
}

}  // namespace nmx
