// The bench of a device, over a toy on every backend: it runs to its end, gives every figure it promises, and documents
// that requests share take memory once. No figure is compared with a time.
#include "bench/device/device_bench.h"

#include <fstream>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/backends.h"
#include "tests/support/cuda_emulation/backend.h"

namespace kvlink::bench {
namespace {

using ::testing::HasSubstr;

// Figures by name, as the JSON has them.
std::map<std::string, double> Figures(const Report& report) {
  const std::string path = ::testing::TempDir() + "/bench_device.json";
  EXPECT_TRUE(report.WriteJson(path).ok());
  std::map<std::string, double> figures;
  for (const auto& figure : nlohmann::json::parse(std::ifstream(path))) {
    const auto name = figure["name"].get<std::string>();
    EXPECT_TRUE(figure["value"].is_number()) << name << " is not finite";
    EXPECT_TRUE(figure["target"].is_null()) << name << " of a toy has a target";
    EXPECT_EQ(figures.count(name), 0u) << name << " is there twice";
    if (figure["value"].is_number()) figures[name] = figure["value"].get<double>();
  }
  return figures;
}

std::vector<std::string> Promised() {
  std::vector<std::string> names = {"copy, read and written", "pinned host memory to the device",
                                    "product of square matrices", "encode", "encode over product of square matrices"};
  for (const char* codec : {"raw-bf16", "q8"}) {
    for (const char* what : {"unshared", "unshared, over copy bandwidth", "shared", "shared, times faster"}) {
      names.push_back(absl::StrCat("decode over ", codec, ", ", what));
    }
  }
  for (const char* codec : {"q8", "q4"}) names.push_back(absl::StrCat("Decode ", codec, " over copy bandwidth"));
  for (int context : {128, 256}) {
    names.push_back(absl::StrCat("full prefill ", context));
    for (const char* way : {"resident", "raw", "q8", "q4"}) {
      for (const char* what : {"", ", floor", ", over floor", ", less than a full prefill"}) {
        names.push_back(absl::StrCat(way, " ", context, what));
      }
    }
  }
  for (int requests : {1, 3}) {
    for (const char* what : {"requests", "decoding", "device memory of documents"}) {
      names.push_back(absl::StrCat("N = ", requests, ", ", what));
    }
  }
  return names;
}

class DeviceBenchOn : public ::testing::TestWithParam<testing::BackendFactory> {};

TEST_P(DeviceBenchOn, GivesEveryFigure) {
  const auto backend = GetParam().make();
  Report report(GetParam().name);
  ASSERT_EQ(RunDeviceBench(backend.get(), SmallDeviceBench(), &report), absl::OkStatus());
  std::map<std::string, double> figures = Figures(report);
  for (const std::string& name : Promised()) {
    ASSERT_EQ(figures.count(name), 1u) << name;
    if (!absl::StrContains(name, "less than")) {
      EXPECT_GT(figures[name], 0) << name;
    }
  }
  EXPECT_EQ(figures["N = 3, device memory of documents, growth"], 1);
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviceBenchOn, ::testing::ValuesIn(testing::AllBackends()),
                         [](const auto& info) { return info.param.name; });

// By what the device has in use, not by what the bench says.
TEST(DeviceBench, SharedDocumentsTakeDeviceMemoryOnce) {
  const auto backend = testing::MakeEmulatedCudaBackend();
  DeviceBenchOptions options = SmallDeviceBench();
  options.sections = {"sharing"};
  options.rounds = 2;
  options.concurrent = {1, 2, 5};
  options.memory_in_use = [] { return testing::EmulatedDeviceBytes(); };
  Report report("sharing");
  const int64_t before = testing::EmulatedDeviceBytes();
  ASSERT_EQ(RunDeviceBench(backend.get(), options, &report), absl::OkStatus());
  EXPECT_EQ(testing::EmulatedDeviceBytes(), before);
  std::map<std::string, double> figures = Figures(report);
  const model::ModelConfig& config = options.config;
  const SlabShape slab{Codec::kRawBf16, config.kv_heads, config.head_dim, options.document_tokens};
  const auto bytes = static_cast<double>(options.documents * config.layers * slab.slab_bytes());
  for (int requests : {1, 2, 5}) {
    EXPECT_EQ(figures[absl::StrCat("N = ", requests, ", device memory of documents")] * (1 << 20), bytes) << requests;
  }
}

TEST(DeviceBench, RefusesWhatItCannotMeasure) {
  const auto backend = testing::MakeEmulatedCudaBackend();
  Report report("refused");
  DeviceBenchOptions options = SmallDeviceBench();
  options.sections = {"speed"};
  absl::Status status = RunDeviceBench(backend.get(), options, &report);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("speed"));
  options = SmallDeviceBench();
  options.contexts = {100};
  status = RunDeviceBench(backend.get(), options, &report);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("100"));
}

}  // namespace
}  // namespace kvlink::bench
