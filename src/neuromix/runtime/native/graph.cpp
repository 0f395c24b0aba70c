#include "graph.h"

#include <array>

#include "keys.h"

namespace nmx {
namespace {

constexpr std::size_t kSide = 65536;  // the most channels, sides of a map, and steps of a kernel
constexpr std::size_t kNodes = 4096;
constexpr std::size_t kElements = std::size_t{1} << 28;  // of a value, a step
constexpr std::size_t kSteps = 65536;

constexpr const char* kReadouts[] = {"mean", "sum", "last"};
constexpr const char* kResets[] = {"hard", "soft", "none"};

Shape shape_of(Keys& keys, std::string_view key) {
  const auto sides = keys.integers(key, 1, kSide);
  if (sides.size() != 3) keys.wrong(key, "must be [C, H, W]");
  return {sides[0], sides[1], sides[2]};
}

std::string written(const Shape& s) { return text("[", s.channels, ", ", s.height, ", ", s.width, "]"); }

// One node on its way from the text: what it reads is known already.
class NodeReader {
 public:
  NodeReader(Keys& keys, const File& file, const std::vector<Node>& before, const Shape& graph_input)
      : keys_(keys), file_(file), before_(before), graph_input_(graph_input) {}

  Node read();

 private:
  void read_input();
  void read_conv();
  void read_lif();
  void read_levels();
  void read_affine();
  void read_add();
  void read_max_pool();
  void read_avg_pool();
  void read_mean();
  void read_attend();
  void read_token_sum();
  void read_gate();

  struct Reading {
    const char* name;
    void (NodeReader::*read)();
  };
  static const std::array<Reading, std::variant_size_v<Op>> kReadings;

  void read_inputs();
  void require_limits();
  std::size_t inputs() const { return node_.inputs.size(); }
  const Node& input(std::size_t i) const { return before_[node_.inputs[i]]; }
  void require_inputs(std::size_t least, std::size_t most) const;
  void require_binary() const;
  void require_one_shape() const;
  void gives(const Shape& shape, Type type) { node_.shape = shape, node_.type = type; }

  std::size_t along(std::string_view key, std::size_t in, std::size_t kernel, std::size_t stride,
                    std::size_t padding, std::size_t dilation = 1) const;
  op::Window window();
  Shape pooled(const op::Window& window) const;
  const Tensor& tensor(std::string_view key, const std::string& name) const;
  std::string channels_tensor(std::string_view key, std::size_t channels);

  Keys& keys_;
  const File& file_;
  const std::vector<Node>& before_;
  const Shape& graph_input_;
  Node node_{};
};

const std::array<NodeReader::Reading, std::variant_size_v<Op>> NodeReader::kReadings = {{
    {"input", &NodeReader::read_input},
    {"conv", &NodeReader::read_conv},
    {"lif", &NodeReader::read_lif},
    {"levels", &NodeReader::read_levels},
    {"affine", &NodeReader::read_affine},
    {"add", &NodeReader::read_add},
    {"max_pool", &NodeReader::read_max_pool},
    {"avg_pool", &NodeReader::read_avg_pool},
    {"mean", &NodeReader::read_mean},
    {"attend", &NodeReader::read_attend},
    {"token_sum", &NodeReader::read_token_sum},
    {"gate", &NodeReader::read_gate},
}};

Node NodeReader::read() {
  const std::string where = keys_.where();
  node_.name = keys_.string("name");
  keys_.say_where(where + " (" + in_quotes(node_.name) + ")");
  node_.op_name = keys_.string("op");
  read_inputs();
  if ((node_.op_name == "input") != before_.empty())
    keys_.wrong("op", "must be input for node 0, and no other");
  for (const Reading& reading : kReadings)
    if (node_.op_name == reading.name) {
      (this->*reading.read)();
      require_limits();
      keys_.none_left();
      return std::move(node_);
    }
  keys_.wrong("op", "is unknown: ", in_quotes(node_.op_name));
}

void NodeReader::read_inputs() {
  node_.inputs = keys_.integers("inputs", 0, kNodes);
  for (const std::size_t i : node_.inputs)
    if (i >= before_.size()) keys_.wrong("inputs", "must be nodes before it, not ", i);
}

void NodeReader::require_limits() {
  const Shape& s = node_.shape;
  if (s.channels > kSide || s.height > kSide || s.width > kSide)
    keys_.wrong("shape", "must have sides up to ", kSide, ", it is ", written(s));
  if (s.positions() > kElements / s.channels)
    keys_.wrong("shape", "must have at most ", kElements, " elements, it is ", written(s));
  const Shape given = shape_of(keys_, "shape");
  if (!(given == s)) keys_.wrong("shape", "must be ", written(s), ", not ", written(given));
}

void NodeReader::require_inputs(std::size_t least, std::size_t most) const {
  if (inputs() >= least && inputs() <= most) return;
  if (most == least) keys_.wrong("inputs", "must be ", least, ", not ", inputs());
  if (most < kNodes) keys_.wrong("inputs", "must be ", least, " to ", most, ", not ", inputs());
  keys_.wrong("inputs", "must be ", least, " or more, not ", inputs());
}

void NodeReader::require_binary() const {
  for (std::size_t i = 0; i < inputs(); ++i)
    if (input(i).type != Type::binary)
      keys_.wrong("inputs", "must be binary: node ", node_.inputs[i], " is not");
}

void NodeReader::require_one_shape() const {
  for (std::size_t i = 1; i < inputs(); ++i)
    if (!(input(i).shape == input(0).shape))
      keys_.wrong("inputs", "must be of one shape, not ", written(input(0).shape), " and ",
                  written(input(i).shape));
}

// The outputs along one axis of a map.
std::size_t NodeReader::along(std::string_view key, std::size_t in, std::size_t kernel, std::size_t stride,
                              std::size_t padding, std::size_t dilation) const {
  const std::size_t reach = (kernel - 1) * dilation + 1, padded = in + 2 * padding;
  if (reach > padded)
    keys_.wrong(key, "reaches over ", reach, " of ", padded, " positions, padding included");
  return (padded - reach) / stride + 1;
}

const Tensor& NodeReader::tensor(std::string_view key, const std::string& name) const {
  const Tensor* found = file_.find(name);
  if (!found) keys_.wrong(key, "names a tensor that is not in the file: ", in_quotes(name));
  return *found;
}

// A tensor with a number for each channel.
std::string NodeReader::channels_tensor(std::string_view key, std::size_t channels) {
  const std::string& name = keys_.string(key);
  const Tensor& found = tensor(key, name);
  if (found.dtype != Dtype::float32 || found.shape != std::vector<std::size_t>{channels})
    keys_.wrong(key, "must be float32 [", channels, "]");
  return name;
}

void NodeReader::read_input() {
  require_inputs(0, 0);
  gives(graph_input_, Type::real);
  node_.op = op::Input{};
}

void NodeReader::read_conv() {
  require_inputs(1, 1);
  op::Conv conv;
  conv.weight = keys_.string("weight");
  const Tensor& weight = tensor("weight", conv.weight);
  ConvShape& s = conv.shape;
  const Shape& in = input(0).shape;
  s.in_channels = in.channels, s.in_height = in.height, s.in_width = in.width;
  s.groups = keys_.integer("groups", 1, kSide);
  keys_.pair("stride", 1, kSide, s.stride);
  keys_.pair("padding", 0, kSide, s.padding);
  keys_.pair("dilation", 1, kSide, s.dilation);
  if (s.in_channels % s.groups)
    keys_.wrong("groups", "must divide the ", s.in_channels, " channels of the input");
  if (weight.shape.size() != 4 || weight.shape[1] != s.in_channels / s.groups)
    keys_.wrong("weight", "must be [O, ", s.in_channels / s.groups, ", kh, kw]");
  for (const std::size_t side : weight.shape)
    if (side < 1 || side > kSide) keys_.wrong("weight", "must have sides from 1 to ", kSide);
  s.out_channels = weight.shape[0];
  if (s.out_channels % s.groups)
    keys_.wrong("groups", "must divide the ", s.out_channels, " outputs of the weight");
  for (int i = 0; i < 2; ++i) s.kernel[i] = weight.shape[2 + i];
  s.out_height = along("weight", in.height, s.kernel[0], s.stride[0], s.padding[0], s.dilation[0]);
  s.out_width = along("weight", in.width, s.kernel[1], s.stride[1], s.padding[1], s.dilation[1]);
  if (weight.dtype == Dtype::int8) conv.scale = channels_tensor("scale", s.out_channels);
  if (!keys_.any("bias").as<std::nullptr_t>()) conv.bias = channels_tensor("bias", s.out_channels);
  gives({s.out_channels, s.out_height, s.out_width}, Type::real);
  node_.op = std::move(conv);
}

void NodeReader::read_lif() {
  require_inputs(1, 1);
  if (input(0).type != Type::real) keys_.wrong("inputs", "must be real");
  const std::size_t channels = input(0).shape.channels;
  op::Lif lif;
  lif.decay = channels_tensor("decay", channels);
  lif.gain = channels_tensor("gain", channels);
  lif.offset = channels_tensor("offset", channels);
  lif.threshold = channels_tensor("threshold", channels);
  lif.reset = Reset(keys_.choice("reset", kResets));
  lif.v_reset = keys_.number("v_reset");
  lif.v_init = keys_.number("v_init");
  lif.fire_at = keys_.number("fire_at");
  lif.strict = keys_.boolean("strict");
  gives(input(0).shape, lif.reset == Reset::none ? Type::real : Type::binary);
  node_.op = std::move(lif);
}

void NodeReader::read_levels() {
  require_inputs(1, 1);
  if (input(0).type != Type::real) keys_.wrong("inputs", "must be real");
  const float gain = keys_.number("gain");
  node_.op = op::Levels{gain, keys_.integer("levels", 1, 255)};
  gives(input(0).shape, Type::integer);
}

void NodeReader::read_affine() {
  require_inputs(1, 1);
  const std::size_t channels = input(0).shape.channels;
  std::string scale = channels_tensor("scale", channels);
  node_.op = op::Affine{std::move(scale), channels_tensor("shift", channels)};
  gives(input(0).shape, Type::real);
}

void NodeReader::read_add() {
  require_inputs(2, kNodes);
  require_one_shape();
  node_.op = op::Add{};
  gives(input(0).shape, Type::real);
}

op::Window NodeReader::window() {
  op::Window w;
  keys_.pair("kernel", 1, kSide, w.kernel);
  keys_.pair("stride", 1, kSide, w.stride);
  keys_.pair("padding", 0, kSide, w.padding);
  // So every window has a position of the map.
  for (int i = 0; i < 2; ++i)
    if (w.padding[i] >= w.kernel[i]) keys_.wrong("padding", "must be less than the kernel");
  return w;
}

Shape NodeReader::pooled(const op::Window& w) const {
  const Shape& in = input(0).shape;
  return {in.channels, along("kernel", in.height, w.kernel[0], w.stride[0], w.padding[0]),
          along("kernel", in.width, w.kernel[1], w.stride[1], w.padding[1])};
}

void NodeReader::read_max_pool() {
  require_inputs(1, 1);
  const op::Window w = window();
  node_.op = op::MaxPool{w};
  gives(pooled(w), input(0).type);
}

void NodeReader::read_avg_pool() {
  require_inputs(1, 1);
  const op::Window w = window();
  node_.op = op::AvgPool{w, keys_.boolean("count_padding")};
  gives(pooled(w), Type::real);
}

void NodeReader::read_mean() {
  require_inputs(1, 1);
  node_.op = op::Mean{};
  gives({input(0).shape.channels, 1, 1}, Type::real);
}

void NodeReader::read_attend() {
  require_inputs(3, 3);
  require_binary();
  require_one_shape();
  const std::size_t channels = input(0).shape.channels;
  const std::size_t heads = keys_.integer("heads", 1, kSide);
  if (channels % heads) keys_.wrong("heads", "must divide the ", channels, " channels");
  node_.op = op::Attend{heads, keys_.number("scale")};
  gives(input(0).shape, Type::real);
}

void NodeReader::read_token_sum() {
  require_inputs(1, 2);
  require_binary();
  require_one_shape();
  node_.op = op::TokenSum{};
  gives({input(0).shape.channels, 1, 1}, Type::real);
}

void NodeReader::read_gate() {
  require_inputs(2, 2);
  require_binary();
  if (!(input(0).shape == Shape{input(1).shape.channels, 1, 1}))
    keys_.wrong("inputs", "must be [C, 1, 1] and [C, H, W], not ", written(input(0).shape), " and ",
                written(input(1).shape));
  node_.op = op::Gate{};
  gives(input(1).shape, Type::binary);
}

void read_output(Keys& keys, Graph& graph) {
  graph.output = keys.integer("output", 0, kNodes);
  if (graph.output >= graph.nodes.size())
    keys.wrong("output", "must be one of the nodes, not ", graph.output);
  const Node& node = graph.nodes[graph.output];
  if (node.type != Type::real || node.shape.positions() != 1)
    keys.wrong("output", "must be a real value [K, 1, 1], node ", graph.output, " is ", name_of(node.type),
               " ", written(node.shape));
  for (const Json& item : keys.list("classes")) {
    const auto* name = item.as<std::string>();
    if (!name) keys.wrong("classes", "must be strings");
    graph.classes.push_back(*name);
  }
  if (!graph.classes.empty() && graph.classes.size() != node.shape.channels)
    keys.wrong("classes", "must be ", node.shape.channels, " or none, not ", graph.classes.size());
}

}  // namespace

const char* name_of(Type type) {
  return type == Type::real ? "real" : type == Type::binary ? "binary" : "integer";
}

const char* name_of(Readout readout) { return kReadouts[std::size_t(readout)]; }

Graph read_graph(const File& file) {
  Json json;
  try {
    json = parse_json(file.graph());
  } catch (const Error& error) {
    fail("graph: ", error.what());
  }
  Keys keys(json, "graph");
  if (keys.integer("version", 0, kSteps) != 1) keys.wrong("version", "must be 1: this is a later format");
  Graph graph;
  graph.name = keys.string("name");
  graph.input = shape_of(keys, "input");
  graph.time_steps = keys.integer("time_steps", 1, kSteps);
  graph.readout = Readout(keys.choice("readout", kReadouts));
  const auto& nodes = keys.list("nodes");
  if (nodes.empty() || nodes.size() > kNodes)
    keys.wrong("nodes", "must be 1 to ", kNodes, ", not ", nodes.size());
  for (const Json& node : nodes) {
    Keys node_keys(node, text("node ", graph.nodes.size()));
    graph.nodes.push_back(NodeReader(node_keys, file, graph.nodes, graph.input).read());
  }
  read_output(keys, graph);
  keys.none_left();
  return graph;
}

}  // namespace nmx
