// Damages valid .nmx files in many ways, and opens and runs what comes out. Whatever happens, it must be an
// answer or an Error of one line; the sanitizers that this is built with see to the rest.
//
//   nmx-fuzz MUTATIONS NET.nmx...
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "session.h"

namespace {

// The same on all machines, unlike the distributions of the standard library.
class Draw {
 public:
  std::size_t below(std::size_t n) { return n ? engine_() % n : 0; }
  template <typename List>
  const auto& one_of(const List& list) {
    return list[below(std::size(list))];
  }

 private:
  std::mt19937_64 engine_{20240229};
};

// A file in its two parts; the header's length is written anew, so that most damage gets past that check.
struct Parts {
  std::string header, tensors;

  explicit Parts(const std::string& file) {
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    header = file.substr(8, length);
    tensors = file.substr(8 + length);
  }
  std::string file() const {
    const std::uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + tensors;
  }
};

// The places [first, last) of the header that are made of characters for which is_part holds.
template <typename IsPart>
std::vector<std::pair<std::size_t, std::size_t>> runs_of(const std::string& text, const IsPart& is_part) {
  std::vector<std::pair<std::size_t, std::size_t>> runs;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::size_t first = i;
    while (i < text.size() && is_part(text[i])) ++i;
    if (i > first) runs.emplace_back(first, i);
  }
  return runs;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

constexpr const char* kNumbers[] = {
    "0",     "1",     "2",     "3",          "-1",         "7",                "16",    "64",
    "65",    "255",   "256",   "0.5",        "-0.0",       "00",               "1e308", "1e999",
    "65535", "65536", "65537", "2147483648", "4294967296", "9007199254740993", "1e-400"};
constexpr const char* kTokens[] = {"null",           "true", "[]", "{}", "[[[[", "\\u0000",
                                   "\\ud83d\\ude00", "\"",   "\\", ",",  ":"};

void change_number(Draw& draw, std::string& header) {
  const auto runs = runs_of(header, is_digit);
  if (runs.empty()) return;
  const auto [first, last] = draw.one_of(runs);
  header.replace(first, last - first, draw.one_of(kNumbers));
}

// Puts one word of the header in the place of another: keys, ops, names of tensors, numbers.
void swap_words(Draw& draw, std::string& header) {
  const auto runs = runs_of(header, is_word);
  if (runs.empty()) return;
  const auto from = draw.one_of(runs), to = draw.one_of(runs);
  header.replace(to.first, to.second - to.first, std::string(header, from.first, from.second - from.first));
}

void change_bytes(Draw& draw, std::string& text, std::size_t most) {
  if (text.empty()) return;
  for (std::size_t n = 1 + draw.below(most); n > 0; --n)
    text[draw.below(text.size())] = char(draw.below(256));
}

void cut_or_repeat(Draw& draw, std::string& text) {
  const std::size_t first = draw.below(text.size());
  const std::size_t size = draw.below(std::min<std::size_t>(64, text.size() - first) + 1);
  const std::string slice = text.substr(first, size);
  draw.below(2) ? void(text.erase(first, size)) : void(text.insert(draw.below(text.size() + 1), slice));
}

std::string damaged(Draw& draw, const std::string& valid) {
  Parts parts(valid);
  const std::size_t changes = draw.below(3) ? 1 : 2 + draw.below(3);
  for (std::size_t n = 0; n < changes; ++n) switch (draw.below(10)) {
      case 0:
      case 1:
      case 2:
        change_number(draw, parts.header);
        break;
      case 3:
      case 4:
        swap_words(draw, parts.header);
        break;
      case 5:
        parts.header.insert(draw.below(parts.header.size() + 1), draw.one_of(kTokens));
        break;
      case 6:
        draw.below(2) ? change_bytes(draw, parts.header, 2) : cut_or_repeat(draw, parts.header);
        break;
      default:
        draw.below(8) ? change_bytes(draw, parts.tensors, 16) : cut_or_repeat(draw, parts.tensors);
        break;
    }
  std::string file = parts.file();
  if (draw.below(32) == 0) file.resize(draw.below(file.size()));
  if (draw.below(32) == 0 && file.size() > 8) file[draw.below(8)] = char(draw.below(256));
  return file;
}

// What a run may take: a limit of work is a limit of time.
bool is_small(const nmx::Graph& graph) {
  double work = 0;
  for (const nmx::Node& node : graph.nodes) {
    double each = 1;
    if (const auto* conv = std::get_if<nmx::op::Conv>(&node.op)) {
      const nmx::ConvShape& s = conv->shape;
      each = double(s.in_channels / s.groups) * double(s.kernel[0]) * double(s.kernel[1]);
      work += 64 * double(s.in_channels) * double(s.in_height) * double(s.in_width);
    }
    const auto* max = std::get_if<nmx::op::MaxPool>(&node.op);
    const auto* average = std::get_if<nmx::op::AvgPool>(&node.op);
    if (max || average) {
      const nmx::op::Window& w = max ? max->window : average->window;
      each = double(w.kernel[0]) * double(w.kernel[1]);
    }
    if (std::holds_alternative<nmx::op::Attend>(node.op)) each = 2 * double(node.shape.channels);
    work += each * double(node.shape.elements());
  }
  return work < 2e6;
}

// Returns whether it was run.
bool open_and_run(Draw& draw, const std::string& file) {
  // In memory of its exact size, so that reading beyond it is seen.
  const std::unique_ptr<char[]> data(new char[file.size()]);
  std::copy(file.begin(), file.end(), data.get());
  const auto program = nmx::Program::from_memory(data.get(), file.size());
  const nmx::Graph& graph = program->graph();
  if (!is_small(graph)) return false;
  const bool is_static = draw.below(2);
  const std::size_t steps = 1 + draw.below(2);
  std::vector<float> x(graph.input.elements() * steps), readout(graph.outputs());
  for (float& number : x) number = float(draw.below(33)) / 8 - 2;
  nmx::Session session(program, 1, draw.below(2));
  session.run(x.data(), steps, is_static, readout.data());
  session.step(x.data(), readout.data());
  return true;
}

std::string content_of(const char* path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return std::fputs("usage: nmx-fuzz MUTATIONS NET.nmx...\n", stderr), 2;
  const long mutations = std::atol(words[1]);
  Draw draw;
  long ran = 0, opened = 0;
  for (long i = 0; i < mutations; ++i) {
    const std::string valid = content_of(words[2 + i % (count - 2)]);
    const std::string file = i < count - 2 ? valid : damaged(draw, valid);
    try {
      ran += open_and_run(draw, file);
      ++opened;
    } catch (const nmx::Error& error) {
      if (i < count - 2 || std::strchr(error.what(), '\n'))
        return std::fprintf(stderr, "%s\n", error.what()), 1;
    }
  }
  std::printf("%ld files, %ld of them opened, %ld run\n", mutations, opened, ran);
}
