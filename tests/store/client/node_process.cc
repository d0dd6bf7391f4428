// A store node for tests that kill it: node_process DIRECTORY CONTROL_ADDRESS. Prints its control address, and ends
// with its standard input.
#include <cstdio>
#include <string>
#include <utility>

#include "store/node/node.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  kvlink::store::node::NodeOptions options;
  options.directory = argv[1];
  options.control_address = argv[2];
  options.data_address = "127.0.0.1:0";
  options.engine.dram_bytes = int64_t{32} << 20;
  options.engine.capacity_bytes = int64_t{128} << 20;
  options.version = "test";
  const auto node = kvlink::store::node::Node::Start(std::move(options));
  if (!node.ok()) {
    std::fprintf(stderr, "%s\n", node.status().ToString().c_str());
    return 1;
  }
  std::printf("%s\n", (*node)->addresses().control.c_str());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return 0;
}
