// Results files of kvlink eval: what is read of one and written to another is read from that again, and nothing of a
// file is lost by opening it. The first byte says whether the rest is the whole file ('f'), or what follows a right
// head.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/support/scratch_directory.h"
#include "worker/eval/results.h"

namespace {

using namespace kvlink::eval;

const Settings kSettings = {{"seed", "1"}};

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kvlink::testing::ScratchDirectory directory(/*in_memory=*/true);
  if (size == 0) return 0;
  const std::string path = directory.path() + "/results", copy = directory.path() + "/copy";
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] != 'f') bytes = "{\"kvlink_eval\":1,\"settings\":{\"seed\":\"1\"}}\n" + bytes;
  std::ofstream(path, std::ios::binary) << bytes;
  std::filesystem::remove(copy);

  const auto read = Results::Open(path, kSettings);
  if (!read.ok()) {
    if (Bytes(path) != bytes) std::abort();
    return 0;
  }
  {
    const auto written = Results::Open(copy, kSettings);
    if (!written.ok()) std::abort();
    for (const Result& result : (*read)->all()) {
      if (!(*written)->Append(result).ok()) std::abort();
    }
  }
  const std::string lines = Bytes(copy);
  const auto again = Results::Open(copy, kSettings);
  if (!again.ok() || Bytes(copy) != lines || (*again)->all().size() != (*read)->all().size()) std::abort();
  for (size_t i = 0; i < (*read)->all().size(); ++i) {
    const Result &one = (*read)->all()[i], &other = (*again)->all()[i];
    if (one.key() != other.key() || one.answer != other.answer || one.exact != other.exact ||
        one.divergence != other.divergence || one.document_tokens != other.document_tokens ||
        one.cross_entropy != other.cross_entropy || one.expected_tokens != other.expected_tokens) {
      std::abort();
    }
  }
  return 0;
}
